"""What every test shares: an offline process of at most two threads, and a plain ``make``."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything imports torch, transformers or matplotlib.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_NUM_THREADS"] = str(min(2, os.cpu_count() or 1))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other
os.environ.setdefault("LEMOE_LAB_PROFILE", "quick")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with slices of the real data sets, which the project does not ship."""
    for folder in (ROOT.parent / "shared" / "data", ROOT / "shared" / "data"):
        if folder.is_dir():
            return folder
    pytest.skip("no slices of ZsRE, CounterFact and WikiBio beside the checkout")


@pytest.fixture(scope="session")
def make() -> Callable[..., str]:
    """``make`` in the checkout as a user would type it, also when ``make test`` runs this."""
    inherited = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
    env = {name: value for name, value in os.environ.items() if name not in inherited}

    def run(*arguments: str) -> str:
        command = ["make", "--no-print-directory", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def host():
    """The embedded host, loaded once; every test gives it back as it was."""
    import lemoe_lab

    return lemoe_lab.load_host("almanac")


@pytest.fixture(scope="session")
def smollm2():
    """A real pretrained language model, loaded once; every test gives it back as it was."""
    import lemoe_lab

    return lemoe_lab.load_host("smollm2")


@pytest.fixture(scope="session")
def stream():
    """Three batches of eight updates with a small calibration set."""
    from lemoe_lab import datasets

    full = datasets.almanac(edits=24, batch_size=8, seed=11)
    return full.model_copy(update={"calibration": full.calibration[::4]})


@pytest.fixture(scope="session")
def exact_host():
    """The embedded host in float64, for calculations by hand."""
    import torch

    import lemoe_lab

    return lemoe_lab.load_host("almanac", dtype=torch.float64)


@pytest.fixture(scope="session")
def conv1d_host(exact_host):
    """A random GPT-2 in float64; it stores linear weights as (in, out)."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from lemoe_lab.host import Host

    torch.manual_seed(0)
    vocabulary = len(exact_host.tokenizer)
    config = GPT2Config(vocab_size=vocabulary, n_embd=16, n_layer=3, n_head=2, n_positions=256)
    return Host(GPT2LMHeadModel(config).double(), exact_host.tokenizer, "random GPT-2")
