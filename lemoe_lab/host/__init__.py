"""The host: a causal language model, its tokenizer, its parts, and what hangs on it.

``model``          ``Host`` and ``load_host``
``architectures``  where decoder layers, attention, FFN and norms are in a model
``feed_forward``   the matrices of an FFN of any kind
``hooks``          ``PromptGate``: decides once a prompt who answers it, however it is decoded
``prompts``        where prompts end, in whatever way the model is called
``encoding``       prompts and targets as tokens; ``chat``, ``subjects``, ``token_places`` beside it
``decoding``       greedy answers, and when they end
``states``         batches run up to a layer once, and scores
``baseline``       what the unedited host answers, kept for the next session
``kept``           what is worked out once for a host, and goes with it
``batched``        many modules of one kind at once
``reuse``          what a training step need not compute again
``statistics``     keys and second moments over neutral text
``surroundings``   autocast, inference mode and train mode of the cell around a call
``gguf``           models in GGUF files, and the one that a Python package carries
``fingerprint``    which weights these are;  ``identity``: which prompt this is
"""

from .model import Host, load_host

__all__ = ["Host", "load_host"]
