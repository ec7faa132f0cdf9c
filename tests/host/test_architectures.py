"""Any decoder-only architecture of transformers can be a host.

PYTHONPATH=tests python tests/host/test_architectures.py     # writes the README's table

Every architecture below is built from its real classes with random weights, and all of them go
through the same tests. The README's table says what was found in these very models.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from helpers import UNRELATED, attached, digest, logits, prompts_of, same, traces
from torch import nn

from lemoe_lab import EditSession, EditStream, datasets, load_host
from lemoe_lab.adaptor.experts import Expert
from lemoe_lab.adaptor.mixture import BypassMoE
from lemoe_lab.adaptor.routing import BYPASS, single_routes
from lemoe_lab.editors import FineTune, LEMoE
from lemoe_lab.editors.shared.low_rank import LowRankExpert
from lemoe_lab.host import Host
from lemoe_lab.host.architectures import run_layer
from lemoe_lab.host.encoding import TokenSequence
from lemoe_lab.host.feed_forward import is_mixture, linears, sizes, standalone
from lemoe_lab.host.reuse import reused
from lemoe_lab.host.states import target_places
from lemoe_lab.probes.oracle import ConstantRouter
from lemoe_lab.probes.tracing import attention

WINDOW = 8  # tokens; shorter than most prompts
LAYER = 1  # the edited one, with a layer below it and one above
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
OLD = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 256, "initializer_range": 0.2}
GEMMA = SMALL | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW}
OPT = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "init_std": 0.2,
}
EXPERTS = SMALL | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

# What the README calls it: configuration and model class, settings.
ARCHITECTURES: dict[str, tuple[str, str, dict]] = {
    "Llama": ("LlamaConfig", "LlamaForCausalLM", SMALL),
    "Mistral": ("MistralConfig", "MistralForCausalLM", SMALL | {"sliding_window": WINDOW}),
    "Qwen2": ("Qwen2Config", "Qwen2ForCausalLM", SMALL),
    "Qwen3": ("Qwen3Config", "Qwen3ForCausalLM", SMALL | {"head_dim": 16}),
    "Gemma 2": ("Gemma2Config", "Gemma2ForCausalLM", GEMMA),
    "Gemma 3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        GEMMA | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "Phi-3": ("Phi3Config", "Phi3ForCausalLM", SMALL),
    "OLMo": ("OlmoConfig", "OlmoForCausalLM", SMALL),
    "OLMo 2": ("Olmo2Config", "Olmo2ForCausalLM", SMALL),
    "Granite": ("GraniteConfig", "GraniteForCausalLM", SMALL | {"logits_scaling": 0.8}),
    "Cohere": ("CohereConfig", "CohereForCausalLM", SMALL | {"logit_scale": 1.25}),
    "StarCoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", SMALL | {"sliding_window": WINDOW}),
    "GPT-2": ("GPT2Config", "GPT2LMHeadModel", OLD),
    "GPT-J": ("GPTJConfig", "GPTJForCausalLM", OLD | {"rotary_dim": 8}),
    "GPT-NeoX (Pythia)": ("GPTNeoXConfig", "GPTNeoXForCausalLM", SMALL),
    "OPT": ("OPTConfig", "OPTForCausalLM", OPT),
    "OPT-350m": (
        "OPTConfig",
        "OPTForCausalLM",
        OPT | {"word_embed_proj_dim": 24, "do_layer_norm_before": False},
    ),
    "Falcon": ("FalconConfig", "FalconForCausalLM", SMALL),
    "Falcon RW": (
        "FalconConfig",
        "FalconForCausalLM",
        SMALL | {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True},
    ),
    "BLOOM": ("BloomConfig", "BloomForCausalLM", OLD | {"hidden_size": 32}),
    "Mixtral": ("MixtralConfig", "MixtralForCausalLM", SMALL | {"num_local_experts": 4}),
    "Qwen2-MoE": (
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        EXPERTS | {"shared_expert_intermediate_size": 24},
    ),
    "GPT-OSS": (
        "GptOssConfig",
        "GptOssForCausalLM",
        SMALL | {"num_local_experts": 4, "head_dim": 16, "sliding_window": WINDOW},
    ),
    "Qwen3-MoE": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", EXPERTS | {"head_dim": 16}),
}


def random_host(name: str, dtype: torch.dtype = torch.float32) -> Host:
    """A host of an architecture with random weights, and the embedded host's tokenizer."""
    config_class, model_class, settings = ARCHITECTURES[name]
    tokenizer = load_host("almanac").tokenizer
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(
        vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **settings
    )
    model = getattr(transformers, model_class)(config)
    # As after training: logits can be sure of a token, and FFNs count even after a norm.
    model.get_output_embeddings().weight.data *= 4
    for module_name, module in model.named_modules():
        if module_name.endswith("post_feedforward_layernorm"):
            module.weight.data.fill_(8)
    return Host(model.to(dtype), tokenizer, f"random {name}")


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def random(request) -> Host:
    """A host of each architecture; every test gives it back as it was."""
    return random_host(request.param)


@pytest.fixture(scope="module")
def edits() -> EditStream:
    """Two batches of ten edits and nothing to measure them with; a small calibration set."""
    full = datasets.almanac(edits=20, batch_size=10, seed=5)
    bare = [edit.model_copy(update={"rephrases": (), "locality": ()}) for edit in full.edits]
    return EditStream.from_edits(bare, 10, calibration=full.calibration[::40])


def editor(**settings: object) -> LEMoE:
    quick = {"intermediate": 256, "learning_rate": 2e-2, "steps": 100, "loss_threshold": 0.1}
    return LEMoE(**{"layer": LAYER} | quick | settings)


def sequences_of(host: Host, stream: EditStream) -> list[TokenSequence]:
    return [host.encode(edit.prompt, edit.target) for edit in stream.edits[:6]]


def test_an_attached_adaptor_changes_no_bit_until_it_learns(random):
    before = traces(random), digest(random.model), logits(random, UNRELATED)
    ffn = random.ffn(LAYER)
    new_born = [Expert(ffn, None, seed=0), Expert(ffn, 5, seed=0)]
    if not is_mixture(ffn):
        new_born.append(LowRankExpert(ffn, 4, seed=0))
    for expert in new_born:
        adaptor = BypassMoE(ConstantRouter("state", 0))
        adaptor.experts.append(expert)
        with adaptor.attach(random, LAYER):
            assert same(logits(random, UNRELATED), before[2])
            assert (adaptor.routes.expert == 0).all()  # it was asked
            list(adaptor.parameters())[-1].data.normal_()
            assert not same(logits(random, UNRELATED), before[2])
        assert same(logits(random, UNRELATED), before[2])
    assert (traces(random), digest(random.model)) == before[:2]


def test_layers_run_on_from_the_edited_one_as_the_model_runs_them(random, edits):
    sequences = sequences_of(random, edits)
    assert max(map(len, sequences)) > WINDOW
    states = random.states(sequences, LAYER)
    with torch.no_grad():
        whole = random.model(input_ids=random.pad(sequences)).logits
        final = random.finish(states, LAYER)
        assert torch.equal(final, states.final)
        assert torch.equal(random.logits(final), whole)
        some = random.finish(states, LAYER, torch.tensor([4, 1]))
        assert torch.allclose(some, final[[4, 1]], atol=1e-5)
        # What one row was run with serves many.
        longest = random.states([max(sequences, key=len)], LAYER)
        many = random.finish(replace(longest, sequences=sequences, hidden=states.hidden), LAYER)
        assert torch.allclose(many, final, atol=1e-5)


def test_work_that_training_is_spared_changes_no_prediction(random, edits):
    sequences = sequences_of(random, edits)
    states = random.states(sequences, LAYER)
    places = target_places(sequences, states.hidden.shape[1])
    assert places.sum() == sum(len(sequence.target) for sequence in sequences)
    before, kept = traces(random), {}
    with torch.no_grad():
        for _ in range(2):  # the second time the edited layer's attention and FFN do not run
            with reused(random, states, LAYER, kept):
                final = random.finish(states, LAYER)
            assert torch.allclose(final[places], states.final[places], atol=1e-5)
        assert torch.equal(random.finish(states, LAYER), states.final)
    assert traces(random) == before


def test_lemoe_learns_and_takes_back_and_resumes(random, edits, tmp_path):
    asked = [*prompts_of(edits)[::5], *UNRELATED]
    before = logits(random, asked), digest(random.model)
    with EditSession(random, editor(), edits, progress=False, immediate=()) as session:
        session.step()
        first = logits(random, asked)
        session.step()
        both = logits(random, asked)
        said = random.exact_match(prompts_of(edits), [edit.target for edit in edits.edits])
        assert sum(said) >= 19
        session.undo()
        assert same(logits(random, asked), first)
        session.redo()
        assert same(logits(random, asked), both)
        session.save(tmp_path / "run")
    assert (same(logits(random, asked), before[0]), digest(random.model)) == (True, before[1])
    with EditSession.resume(tmp_path / "run", random):
        assert same(logits(random, asked), both)


def test_experts_run_at_once_while_decoding_as_they_do_one_by_one(request, random, monkeypatch):
    adaptor = with_experts(random, lambda ffn, seed: Expert(ffn, 12, seed))
    x, output = torch.randn(2, 6, 1, random.width)
    routes = single_routes(torch.tensor([0, 2, BYPASS, 1, 0, 2]), torch.rand(6))
    runs = []
    monkeypatch.setattr(Expert, "forward", counted(Expert.forward, runs))
    one_by_one = adaptor.combine(x, output, routes)
    assert len(runs) == 3
    with torch.no_grad():
        adaptor.combine(x, output, routes)  # finds out whether the experts can be stacked
        del runs[:]
        at_once = adaptor.combine(x, output, routes)
    bloom = request.node.callspec.params["random"] == "BLOOM"  # its GELU is an autograd function
    assert len(runs) == (3 if bloom else 1)
    assert torch.allclose(at_once, one_by_one, atol=1e-5)
    assert not torch.equal(at_once[1], output[1])
    assert torch.equal(at_once[2], output[2])


def with_experts(host: Host, make: Callable[[nn.Module, int], nn.Module]) -> BypassMoE:
    """An adaptor with three experts that say something."""
    adaptor = BypassMoE(ConstantRouter("state", 0))
    adaptor.experts.extend(make(host.ffn(LAYER), seed) for seed in range(3))
    for parameter in adaptor.parameters():
        nn.init.normal_(parameter, std=0.3)
    adaptor.experts[:-1].requires_grad_(False)  # as when only the newest is being trained
    return adaptor


def test_edited_answers_depend_neither_on_padding_nor_on_the_cache(random, edits):
    with attached(editor(steps=10), random, edits, batches=1):
        prompts = prompts_of(edits)[:4] + UNRELATED
        assert len({len(random.encode_prompt(prompt)) for prompt in prompts}) > 1
        alone = [random.generate(prompt, max_new_tokens=8) for prompt in prompts]
        assert random.generate(prompts, max_new_tokens=8) == alone
        for prompt in prompts[:2]:
            assert torch.equal(written(random, prompt, True), written(random, prompt, False))


def written(host: Host, prompt: str, use_cache: bool) -> torch.Tensor:
    """Token ids of a prompt and what ``model.generate`` writes after it."""
    ids = host.encode_prompt(prompt)
    with host.prompts_end([TokenSequence(ids, ())]):
        return host.model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=6,
            do_sample=False,
            use_cache=use_cache,
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_hosts_learn_and_keep_every_bit_elsewhere(request, random, edits, dtype):
    host = random_host(request.node.callspec.params["random"], dtype)
    before = logits(host, UNRELATED)
    with attached(editor(routing="kv_anchor", steps=15), host, edits) as lemoe:
        losses = lemoe.edit(edits.batches[0]).losses
        assert min(losses) < losses[0] * 0.6
        assert all(p.dtype == torch.float32 for p in lemoe.adaptor.experts.parameters())
        with lemoe.disabled():
            assert same(logits(host, UNRELATED), before)
    assert same(logits(host, UNRELATED), before)


# What single architectures are about


def test_experts_beside_a_mixture_have_the_shape_of_one_of_its_experts(edits):
    host = random_host("Qwen3-MoE")
    expert = Expert(host.ffn(LAYER), None, seed=0)
    assert [sizes(m) for m in linears(expert.body)] == [(24, 32), (24, 32), (32, 24)]
    with pytest.raises(ValueError, match="mixture of experts"):
        LowRankExpert(host.ffn(LAYER), 4, seed=0)
    with pytest.raises(ValueError, match="dense FFN"), attached(FineTune(layer=1), host, edits):
        pass


def test_an_ffn_that_is_not_in_memory_gets_no_expert(host):
    offloaded = copy.deepcopy(host.ffn(0)).to("meta")
    for expert in (lambda: Expert(offloaded, None, 0), lambda: LowRankExpert(offloaded, 4, 0)):
        with pytest.raises(ValueError, match="device_map"):
            expert()


def test_merged_projections_keep_gate_and_up_together():
    merged = Expert(random_host("Phi-3").ffn(LAYER), 7, seed=0)
    assert [sizes(module) for module in linears(merged.body)] == [(14, 32), (32, 7)]


@pytest.mark.parametrize("name", ["OPT", "BLOOM"])
def test_an_ffn_that_no_module_computes_is_seen_and_replaced_like_any_other(name, edits):
    host = random_host(name)
    ffn, seen = host.ffn(LAYER), []
    states = host.states(sequences_of(host, edits), LAYER)
    handle = ffn.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        host.finish(states, LAYER)
        handle.remove()
        ((x, output),) = seen
        assert x.shape == output.shape == states.hidden.shape
        assert torch.allclose(ffn(x), output, atol=1e-6)
        handle = ffn.register_forward_hook(lambda _m, _args, out: out + 1)
        raised = host.finish(states, LAYER)
        handle.remove()
    assert not torch.allclose(raised, states.final)
    assert torch.equal(host.finish(states, LAYER), states.final)


# Settings of hosts and experts


class Odd(transformers.PreTrainedModel):
    """A language model with unusual names."""

    config_class = transformers.PretrainedConfig
    base_model_prefix = "trunk"

    def __init__(self, config: transformers.PretrainedConfig) -> None:
        super().__init__(config)
        self.trunk = OddTrunk()
        self.words = nn.Linear(32, 2048)
        nn.init.normal_(self.words.weight)

    def get_input_embeddings(self) -> nn.Module:
        return self.trunk.entrance

    def get_output_embeddings(self) -> nn.Module:
        return self.words


class OddTrunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.entrance = nn.Embedding(2048, 32)
        self.stages = nn.ModuleList([OddStage(), OddStage()])
        self.exit = nn.LayerNorm(32)

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> tuple[torch.Tensor]:
        hidden = self.entrance(input_ids)
        for stage in self.stages:
            hidden = stage(hidden)
        return (self.exit(hidden),)


class OddStage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.transform(hidden.cumsum(1))


def odd_host(tokenizer, first: nn.Module | None = None, **paths: str) -> Host:
    """A host with unusual names; ``first`` takes the place of its first layer."""
    torch.manual_seed(0)
    model = Odd(transformers.PretrainedConfig(hidden_size=32, max_position_embeddings=64))
    if first is not None:
        model.trunk.stages[0] = first
    return Host(model, tokenizer, "odd", **paths)


ODD = {"layers": "trunk.stages", "ffn": "transform", "final_norm": "trunk.exit"}


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        ({}, r"layers=.*ffn=.*'trunk\.stages' \(2 OddStage with transform\)"),
        ({"layers": "trunk.stages"}, r"ffn=.*transform"),
        ({"layers": "trunk.exit"}, "LayerNorm"),
        ({"layers": "trunk.nothing", "ffn": "transform"}, "'trunk.nothing' is no module"),
        ({"layers": "trunk.stages", "ffn": "transform"}, r"final_norm=.*"),
    ],
)
def test_a_model_with_unusual_names_is_told_what_to_say(host, paths, told):
    with pytest.raises(ValueError, match=told):
        odd_host(host.tokenizer, **paths)


def test_a_model_with_unusual_names_is_edited_once_they_are_said(host, edits):
    odd = odd_host(host.tokenizer, **ODD)
    states = odd.states(sequences_of(odd, edits), layer=1)
    assert torch.equal(odd.finish(states, 1), states.final)
    with attached(editor(routing="kv_anchor", steps=20), odd, edits) as lemoe:
        losses = lemoe.edit(edits.batches[0]).losses
        assert losses[-1] < losses[0] / 2


def test_a_layer_without_an_ffn_cannot_be_edited_and_the_others_can(host):
    odd = odd_host(host.tokenizer, first=nn.Identity(), **ODD)
    with pytest.raises(ValueError, match="layer 0 of odd has no FFN"):
        odd.ffn(0)
    assert odd.ffn(1) is odd.layers[1].transform


def test_load_host_takes_the_paths_of_parts():
    named = load_host("almanac", layers="model.layers", ffn="mlp", final_norm="model.norm")
    assert named.layers is named.model.model.layers
    assert named.ffn(2) is named.model.model.layers[2].mlp
    with pytest.raises(ValueError, match="feed_forward"):
        load_host("almanac", ffn="feed_forward")


def test_a_device_map_goes_to_transformers_and_nothing_is_moved_afterwards(host, monkeypatch):
    asked = []

    def from_pretrained(folder, **settings):
        asked.append(settings["device_map"])
        return host.model

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    mapped = load_host("almanac", device="meta", device_map="auto")
    assert asked == ["auto"] and mapped.device == host.device


def test_gradient_checkpointing_keeps_every_loss(stream, monkeypatch):
    losses = []
    for checkpointing in (False, True):
        host = load_host("almanac", gradient_checkpointing=checkpointing)
        runs, ffn = [], host.ffn(5)
        # Counted without a hook: a layer with hooks is not run twice.
        monkeypatch.setattr(ffn, "forward", counted(ffn.forward, runs))
        with attached(LEMoE(routing="kv_anchor", layer=2, steps=4), host, stream) as lemoe:
            losses.append(lemoe.edit(stream.batches[0]).losses)
        assert len(runs) == (9 if checkpointing else 5)  # once for the states; 4 steps, twice each
    assert losses[0] == losses[1]


def counted(function: Callable, calls: list) -> Callable:
    """The same function, which also notes down every call."""

    @functools.wraps(function)
    def call(*arguments: object) -> object:
        calls.append(arguments)
        return function(*arguments)

    return call


def test_low_rank_experts_are_the_hosts_ffn_with_changed_matrices(host):
    ffn = host.ffn(2)
    expert = LowRankExpert(ffn, rank=3, seed=1)
    x = torch.randn(4, host.width)
    for up in expert.up:
        nn.init.normal_(up, std=0.1)
    changed = standalone_copy(ffn)
    for linear, down, up in zip(linears(changed), expert.down, expert.up, strict=True):
        linear.weight.data += up @ down
    assert torch.allclose(expert(x), changed(x) - ffn(x), atol=1e-5)
    names = set(expert.state_dict())
    assert names == {f"{side}.{i}" for side in ("down", "up") for i in range(3)}


def standalone_copy(ffn: nn.Module) -> nn.Module:
    other = load_host("almanac").ffn(2)
    other.load_state_dict(ffn.state_dict())
    return other.requires_grad_(False)


def test_lemoe_learns_with_low_rank_experts(host, edits, tmp_path):
    weights = digest(host.model)
    lemoe = LEMoE(routing="kv_anchor", expert_rank=8, steps=60, learning_rate=1e-2)
    with EditSession(host, lemoe, edits, progress=False, immediate=()) as session:
        session.step()
        batch = edits.batches[0]
        assert all(host.exact_match([e.prompt for e in batch], [e.target for e in batch]))
        answers = logits(host, prompts_of(edits))
        session.save(tmp_path / "run")
    with EditSession.resume(tmp_path / "run", host):
        assert same(logits(host, prompts_of(edits)), answers)
    assert digest(host.model) == weights


def test_experts_run_one_by_one_where_copies_take_too_much_room(host, monkeypatch):
    adaptor = with_experts(host, lambda ffn, seed: Expert(ffn, None, seed))
    runs, x = [], torch.randn(3, 1, host.width)
    monkeypatch.setattr(Expert, "forward", counted(Expert.forward, runs))
    size = sum(parameter.nbytes for parameter in adaptor.experts.parameters())
    monkeypatch.setattr("lemoe_lab.adaptor.dispatch.ROOM", size - 1)
    with torch.no_grad():
        adaptor.combine(x, x, single_routes(torch.arange(3), torch.ones(3)))
        assert len(runs) == 3
        adaptor.combine(x, x, single_routes(torch.tensor([0, 1, BYPASS]), torch.ones(3)))
        assert len(runs) == 5  # two experts are no crowd


def test_low_rank_experts_run_one_by_one(host):
    adaptor = with_experts(host, lambda ffn, seed: LowRankExpert(ffn, 2, seed))
    x = torch.randn(3, 1, host.width)
    routes = single_routes(torch.arange(3), torch.ones(3))
    with torch.no_grad():
        expected = x + torch.stack(
            [expert(row) for expert, row in zip(adaptor.experts, x, strict=True)]
        )
        for _ in range(2):  # the second time it is known that they cannot be stacked
            assert torch.allclose(adaptor.combine(x, x, routes), expected, atol=1e-5)


def test_experts_are_added_in_float32_and_rounded_once(host):
    adaptor = BypassMoE(ConstantRouter("state", 0))
    adaptor.experts.extend([constant(1 / 256), constant(1 / 256)])
    output = torch.ones(2, 1, 4, dtype=torch.bfloat16)
    routes = single_routes(torch.tensor([0, -1]), torch.ones(2))
    routes.expert = torch.tensor([[0, 1], [-1, -1]])
    routes.gate = torch.ones(2, 2)
    edited = adaptor.combine(output, output, routes)
    assert edited.dtype == torch.bfloat16
    assert (edited[0] == 1 + 1 / 128).all()  # one after the other they would be rounded away
    assert torch.equal(edited[1], output[1])


def constant(value: float) -> nn.Module:
    """An expert that always adds the same."""
    layer = nn.Linear(4, 4).requires_grad_(False)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)
    return nn.Sequential(Float(), layer)


class Float(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


# The README's table

README = Path(__file__).parents[2] / "README.md"
MARKERS = "<!-- architectures -->", "<!-- /architectures -->"


def ffn_kind(host: Host) -> str:
    """Plain or gated, read off the matrices of the FFN or of one of its experts."""
    modules = linears(standalone(host.ffn(LAYER)))
    hidden = sizes(modules[-1])[1]
    if len(modules) == 3:
        return "gated"
    return "gated, merged" if sizes(modules[0])[0] == 2 * hidden else "plain"


def experts_inside(host: Host) -> bool:
    return is_mixture(host.ffn(LAYER))


@torch.no_grad()
def is_parallel(host: Host) -> bool:
    """Whether the FFN's input stays the same when the layer's attention is silenced."""
    ids = [TokenSequence(host.encode_prompt(UNRELATED[0]), ())]
    before = host.states(ids, LAYER).prompt_state

    def silence(_module: nn.Module, _args: tuple, output: tuple) -> tuple:
        return (torch.zeros_like(output[0]), *output[1:])

    handle = attention(host, LAYER).register_forward_hook(silence)
    after = host.states(ids, LAYER).prompt_state
    handle.remove()
    return torch.equal(before, after)


def is_tied(host: Host) -> bool:
    model = host.model
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@torch.no_grad()
def sliding_layers(host: Host) -> int:
    """In how many layers no token sees the first one once it is a window away."""
    text = TokenSequence(tuple(range(10, 10 + 8 * WINDOW)), ())
    states = host.states([text], 0)
    hidden = torch.randn(states.hidden.shape, generator=torch.Generator().manual_seed(0))
    other = hidden.clone()
    other[:, 0] += 1
    blind = 0
    for block, arguments in zip(host.layers, states.arguments, strict=True):
        ends = [run_layer(block, given, arguments)[0, WINDOW:] for given in (hidden, other)]
        blind += torch.equal(*ends)
    return blind


def features(host: Host) -> tuple[str, ...]:
    """One row of the table, found in the model."""
    blind, count = sliding_layers(host), len(host.layers)
    window = {0: "", count: "all layers"}.get(blind, "some layers")
    return (
        ffn_kind(host),
        "yes" if experts_inside(host) else "",
        "parallel" if is_parallel(host) else "one after the other",
        window,
        "yes" if is_tied(host) else "",
    )


def architecture_table() -> str:
    """The tested architectures with their features, in Markdown."""
    head = (
        "architecture", "FFN", "mixture of experts", "attention and FFN", "sliding window",
        "tied embeddings",
    )  # fmt: skip
    rows = [head, ("---",) * len(head)]
    rows += [(name, *features(random_host(name))) for name in ARCHITECTURES]
    return "\n".join(" ".join(f"| {cell}".rstrip() for cell in row) + " |" for row in rows)


def test_readme_lists_exactly_the_tested_architectures():
    text = README.read_text(encoding="utf-8")
    start, end = MARKERS
    assert text.count(start) == text.count(end) == 1
    assert text.split(start)[1].split(end)[0].strip() == architecture_table()


if __name__ == "__main__":
    pattern = re.compile(f"{MARKERS[0]}.*{MARKERS[1]}", re.DOTALL)
    table = f"{MARKERS[0]}\n{architecture_table()}\n{MARKERS[1]}"
    README.write_text(pattern.sub(lambda _: table, README.read_text(encoding="utf-8")), "utf-8")
