"""Studies: experiments in stages, each based on the results of earlier stages."""
