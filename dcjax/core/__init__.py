"""What every package needs: errors, options and their ranges, streams of random numbers, names.

Imports no other package of dcjax.
"""
