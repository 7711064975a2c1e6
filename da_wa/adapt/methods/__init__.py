"""Adaptation methods, one file each; ``conf/method`` has their options."""
