"""Files that survive: runs on disk, exported edits, and loading them.

``run``        the folder of a session: settings, metrics, journal, one tensor file per step
``journal``    its append-only journal;  ``recording``: what a session writes and reads there
``folders``    atomic writes and replacements;  ``export``, ``load``: edits for others
"""
