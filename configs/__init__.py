"""Experiments: default.py has every setting, the other files what differs."""
