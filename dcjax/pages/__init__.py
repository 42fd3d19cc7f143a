"""Pages that people look at in a browser: the report of a run, and the search page.

Imports core. It gets everything that a page shows from its callers.
"""
