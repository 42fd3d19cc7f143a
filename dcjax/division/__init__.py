"""The method: images divided into clusters, masks split with them, batches drawn from them.

Imports core and distributed.
"""

from dcjax.core import lazy

# SciPy's import takes time that a use of masks saves.
__getattr__ = lazy.exports(
    __name__,
    {
        "Division": "dcjax.division.division:Division",
        "agreement": "dcjax.division.division:agreement",
        "divide": "dcjax.division.division:divide",
    },
)
