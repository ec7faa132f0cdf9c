"""``python -m lemoe_lab.pretrain`` trains the embedded host (``lemoe_lab.embedded.pretrain``)."""

from .embedded.pretrain import main

if __name__ == "__main__":
    main()
