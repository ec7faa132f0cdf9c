"""What a run will take, and what it took.

``estimate``    ``estimate_memory``: before a run, from shapes alone
``peak``        the most that a process held
"""
