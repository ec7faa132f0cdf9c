"""What a run will take, and what it took.

``estimate``    ``estimate_memory``: before a run, from shapes alone
``footprints``  what an editor keeps, asked before it is attached
``peak``        the most that a process held
"""
