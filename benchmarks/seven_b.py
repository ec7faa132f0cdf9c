"""Times LEMoE at layer 18 of 32 on a host of LLaMA-2-7B's architecture with random weights.

    python benchmarks/seven_b.py --device cuda
    python benchmarks/seven_b.py --device cuda --intermediate 1024
    python benchmarks/seven_b.py --config small

Prints Markdown: what a batch of edits costs to learn and to measure, beside FT-L's, and what
experts add to the time of a token. Random weights answer noise, so only times and sizes mean
something. A full-size expert takes 541 MB: the experts of the second table are made small enough
to fit together, in steps of two, and the table names their size.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence

import pandas as pd
import torch
import transformers
from generation_latency import latency
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import lemoe_lab as ll
from lemoe_lab.datasets import data_folder
from lemoe_lab.editors import Editor
from lemoe_lab.evaluation import Evaluator
from lemoe_lab.host import Host
from lemoe_lab.memory.estimate import available_memory
from lemoe_lab.memory.peak import PeakMemory

LLAMA_2_7B = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
SMALL = LLAMA_2_7B | {
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
}
HOSTS = {"7b": (LLAMA_2_7B, 18), "small": (SMALL, 2)}  # with the layer that is edited
DTYPE = torch.bfloat16
SPARE = 0.8  # share of the free memory that experts may take


def random_host(sizes: dict, device: str) -> Host:
    """A Llama with random weights, made in its own precision where it is to stay.

    Tokens that the embedded host's tokenizer lacks are never the likeliest: it cannot decode them.
    """
    tokenizer = AutoTokenizer.from_pretrained(data_folder() / "host")
    special = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, **special), dtype=DTYPE)
    with torch.no_grad():
        model.get_output_embeddings().weight[len(tokenizer) :] = 0
    return Host(model, tokenizer, "random Llama")


def measure(
    config: str,
    device: str,
    batch_size: int,
    experts: Sequence[int],
    intermediate: int | None,
    rank: int | None,
    steps: int | None,
    tokens: int,
    repetitions: int,
    calibration: int,
) -> dict[str, pd.DataFrame]:
    """The tables ``learning`` and ``generation``.

    ``intermediate`` is the hidden size of experts, ``rank`` that of low-rank ones, which have a row
    of their own; ``steps`` how many each editor takes at most, and ``calibration`` how many facts
    outside the stream the router is calibrated on.
    """
    sizes, layer = HOSTS[config]
    host = random_host(sizes, device)
    full = intermediate or sizes["intermediate_size"]
    together = fitting(host, full, max(experts))

    def stream(edits: int, batch_size: int) -> ll.EditStream:
        made = ll.datasets.almanac(edits=edits, batch_size=batch_size, seed=1)
        return made.model_copy(update={"calibration": made.calibration[:calibration]})

    shared = {"layer": layer} if steps is None else {"layer": layer, "steps": steps}
    editors = {
        f"LEMoE, hidden size {full}": ll.editors.LEMoE(intermediate=full, **shared),
        "FT-L": ll.editors.FineTune(**shared),
    }
    if rank is not None:
        editors[f"LEMoE, rank {rank}"] = ll.editors.LEMoE(expert_rank=rank, **shared)
    twice = stream(2 * batch_size, batch_size)
    learned = {name: learning(host, editor, twice) for name, editor in editors.items()}
    small = ll.editors.LEMoE(layer=layer, intermediate=together, steps=1)
    generation = latency(
        host, small, stream(max(experts), 1), experts, (1, 16), tokens, repetitions
    )
    generation.insert(1, "hidden size", together)
    generation["added (ms)"] = generation["edited (ms)"] - generation["bare (ms)"]
    return {
        "learning": pd.DataFrame.from_dict(learned, orient="index").rename_axis("editor"),
        "generation": generation.set_index("experts"),
    }


def fitting(host: Host, intermediate: int, experts: int) -> int:
    """The hidden size, halved as often as needed, at which so many experts fit beside the host."""
    room = SPARE * available_memory(host) / (experts * 3 * host.width * torch.float32.itemsize)
    while intermediate > max(1, room):
        intermediate //= 2
    return intermediate


def learning(host: Host, editor: Editor, stream: ll.EditStream) -> dict[str, float]:
    """What learning and measuring the last batch of a stream costs; those before warm up."""
    editor.attach(host, stream)
    try:
        evaluator = Evaluator(host, editor)
        for batch in stream:
            started = time.perf_counter()
            with PeakMemory(host.device) as memory:
                losses = editor.edit(batch).losses
            learned = time.perf_counter()
            evaluator.measure(batch, batch.step)
            measured = time.perf_counter()
    finally:
        editor.detach()
    return {
        "steps": len(losses),
        "learning (s/step)": (learned - started) / len(losses),
        "learning (s/edit)": (learned - started) / len(batch),
        "measuring (s/edit)": (measured - learned) / len(batch),
        "host (GB)": sum(parameter.nbytes for parameter in host.model.parameters()) / 1e9,
        "learning, on top (GB)": memory.bytes / 1e9,
    }


def markdown(table: pd.DataFrame) -> str:
    """A table with its index, numbers with three significant digits."""
    table = table.reset_index()
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    cells = ((f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def surroundings(device: str) -> str:
    """Device, precision and versions, in one line."""
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    precision = str(DTYPE).removeprefix("torch.")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{name}; {precision}; {versions}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=HOSTS, default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--experts", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--intermediate", type=int, help="default: the host's own")
    parser.add_argument("--rank", type=int, help="also learn with low-rank experts")
    parser.add_argument("--steps", type=int, help="at most so many; default: the editors' own")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--calibration", type=int, default=1000)
    given = parser.parse_args()
    print(f"{given.config}: {surroundings(given.device)}")
    for table in measure(**vars(given)).values():
        print(f"\n{markdown(table)}")


if __name__ == "__main__":
    main()
