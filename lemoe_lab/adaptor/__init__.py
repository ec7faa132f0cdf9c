"""The adaptor: experts beside one FFN, and the routers that choose among them.

``experts``      what is added: ``Expert``, ``LowRankExpert``
``mixture``      ``BypassMoE``, the module beside the FFN
``routing``      ``Routes``, and the routers of LEMoE: KV anchors (the paper) and scoped (ours)
``anchors``      the addresses of edits, and the similarity that a prompt needs
``calibration``  the space that scoped routing compares prompts in, found once and frozen
``dispatch``     who answers which rows, all at once while decoding; no part of the method
"""
