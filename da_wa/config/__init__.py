"""An experiment's configuration: composed by Hydra, validated once, instantiated where it is used."""
