"""Command line and YAML files → one validated experiment. Imports neither torch nor Lightning."""
