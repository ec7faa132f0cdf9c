"""The routing inspector: where prompts go, what would change that; a look changes nothing."""

import base64

import numpy as np
import pytest
import torch

import lemoe_lab as ll
from lemoe_lab.adaptor.anchors import Threshold
from lemoe_lab.adaptor.routing import BYPASS
from lemoe_lab.widgets.common.elements import table_html
from lemoe_lab.widgets.common.points import group_look, principal_axes
from lemoe_lab.widgets.common.routes import (
    NearAnchor,
    PromptRoute,
    explain,
    route_html,
    summary,
)
from lemoe_lab.widgets.inspector.inspector import RoutingInspector
from lemoe_lab.widgets.inspector.model import MOST_PROMPTS, Asked, InspectorModel, routes_table
from lemoe_lab.widgets.inspector.views import letter_offsets

EACH = 4  # edits in a batch
KV = {"routing": "kv_anchor", "steps": 10}
EDITORS = {
    "scoped": lambda: ll.editors.LEMoE(steps=10),
    "kv": lambda: ll.editors.LEMoE(centre=True, rehearse_anchors=True, bypass=True, **KV),
    "literal": lambda: ll.editors.LEMoE(**KV),
    "moe": lambda: ll.editors.MoEAdaptor(steps=10),
}
UNRELATED = "We walked on the roof for an hour"
SCRIPT = "<script>document.title = 'run'</script> is"


@pytest.fixture(scope="module")
def stream(stream):
    """Half of the usual edits in every batch, and a calibration that takes a moment."""
    short = stream.with_groups([batch.edits[:EACH] for batch in stream])
    return short.model_copy(update={"calibration": stream.calibration[::3]})


def opened(stream, name: str) -> ll.EditSession:
    return ll.EditSession(ll.load_host("almanac"), EDITORS[name](), stream, progress=False)


@pytest.fixture(scope="module")
def sessions(stream):
    """One session of three learned batches for each kind of router, each on a host of its own."""
    made = {}

    def session_of(name: str) -> ll.EditSession:
        if name not in made:
            made[name] = opened(stream, name)
            made[name].jump(3)
        return made[name]

    yield session_of
    for session in made.values():
        session.close()


@pytest.fixture
def model(sessions):
    return InspectorModel(sessions("scoped"))


def second_batch_edit(model):
    return model.session.stream.batches[1].edits[2]


# Routes


@pytest.mark.parametrize("name", EDITORS)
def test_every_router_says_where_its_prompts_go(sessions, name):
    model = InspectorModel(sessions(name))
    model.ask_edit(second_batch_edit(model).id)
    features = model.session.editor.prompt_features([asked.prompt for asked in model.asked])
    routes = model.session.editor.routes(features)
    assert model.table()["after"].tolist() == routes.expert[:, 0].tolist()


def test_a_learned_prompt_is_nearest_to_its_own_anchor(model):
    edit = second_batch_edit(model)
    model.ask(edit.prompt)
    row = model.table().iloc[0]
    assert (row["nearest"], row["after"]) == (edit.id, 1)
    assert row["similarity"] == pytest.approx(1, abs=1e-4)


def test_what_a_bypassed_prompt_lacks_is_what_it_takes_to_be_routed(model):
    model.ask(UNRELATED)
    route, router = model.routes()[0], model.session.editor.adaptor.router
    assert route.bypassed and route.slack < 0
    bypass = router.bypass
    try:
        router.bypass = Threshold(torch.tensor([route.threshold + route.slack + 1e-4]))
        assert model.routes()[0].bypassed
        router.bypass = Threshold(torch.tensor([route.threshold + route.slack - 1e-4]))
        assert model.routes()[0].expert == route.candidates[0]
    finally:
        router.bypass = bypass


def test_a_routed_prompt_is_bypassed_once_it_loses_its_slack(model):
    model.ask(second_batch_edit(model).rephrases[-1].prompt)
    route, router = model.routes()[0], model.session.editor.adaptor.router
    assert not route.bypassed
    bypass = router.bypass
    try:
        router.bypass = Threshold(torch.tensor([route.threshold + route.slack - 1e-4]))
        assert not model.routes()[0].bypassed
        router.bypass = Threshold(torch.tensor([route.threshold + route.slack + 1e-4]))
        assert model.routes()[0].bypassed
    finally:
        router.bypass = bypass


def test_the_runner_up_answers_when_the_anchors_of_the_chosen_expert_are_gone(model):
    model.ask(second_batch_edit(model).prompt)
    route, router = model.routes()[0], model.session.editor.adaptor.router
    bypass, retired_by = router.bypass, router.memory.retired_by.clone()
    try:
        router.bypass = Threshold(torch.tensor([-1.0]))
        router.memory.retired_by[router.memory.expert == route.expert] = len(model.session.stream)
        after = model.routes()[0]
    finally:
        router.bypass = bypass
        router.memory.retired_by.copy_(retired_by)
    assert after.expert == route.runner_up.expert
    lead = route.nearest[0].similarity - after.nearest[0].similarity
    assert route.runner_up.margin == pytest.approx(lead, abs=1e-5)


@pytest.mark.parametrize("name", ["kv", "literal"])
def test_the_margin_of_a_kv_anchor_is_the_lead_of_its_logit(sessions, name):
    model = InspectorModel(sessions(name))
    model.ask(second_batch_edit(model).prompt)
    editor = model.session.editor
    logits = editor.adaptor.router.logits(editor.prompt_features([model.asked[0].prompt]))[0]
    first, second = logits.topk(2).values.tolist()
    route = model.routes()[0]
    assert not route.bypassed
    assert route.runner_up.margin == pytest.approx(first - second, abs=1e-5)


def test_a_router_without_bypass_has_no_threshold_and_says_so(sessions):
    model = InspectorModel(sessions("literal"))
    model.ask(UNRELATED)
    route = model.routes()[0]
    assert route.threshold is None and route.slack is None
    assert "never bypasses" in " ".join(explain(route))


def test_gate_weights_of_the_chosen_experts_are_shown(sessions):
    model = InspectorModel(sessions("moe"))
    model.ask(UNRELATED)
    route = model.routes()[0]
    assert route.gates[0] == pytest.approx(np.exp(route.scores[0][1]), abs=1e-5)


def test_a_superseded_edit_is_nobodys_nearest_anchor(stream, host):
    first, second = stream.batches[0].edits[0], stream.batches[1].edits[0]
    newer = first.model_copy(update={"id": "newer", "target": second.target})
    twice = stream.with_groups([[first, second], [newer]])
    with ll.EditSession(host, ll.editors.LEMoE(steps=2), twice, progress=False) as session:
        session.jump(2)
        model = InspectorModel(session)
        model.ask(first.prompt)
        assert model.table()["nearest"].tolist() == ["newer"]
        assert model.map().superseded.tolist() == [True, False, False]
        assert first.id not in [near.edit.id for near in model.routes()[0].nearest]


# Words


def anchored(similarity: float, edit, **route) -> PromptRoute:
    near = (NearAnchor(edit, 2, 1, similarity),)
    return PromptRoute(nearest=near, threshold=0.75, unit="similarity", **route)


def test_sentences_tell_how_far_a_prompt_is_from_each_change(stream):
    edit = stream.edits[0]
    scores = ((1, 0.9), (4, 0.6))
    routed = anchored(0.9, edit, experts=(1,), gates=(1.0,), scores=scores)
    text = " ".join(explain(routed))
    assert "Expert 1 answers with gate weight 1.00" in text
    assert "could lose 0.150" in text
    assert "Next comes expert 4" in text and "0.300 less, itself below the threshold" in text
    assert summary(routed) == "could lose 0.150 similarity; next is 4, 0.300 behind"


def test_sentences_tell_what_a_bypassed_prompt_lacks(stream):
    route = anchored(
        0.5, stream.edits[0], experts=(BYPASS,), gates=(0.0,), scores=((1, 0.5), (0, 0.4))
    )
    text = " ".join(explain(route))
    assert "lacks 0.250" in text and "to go to expert 1" in text
    assert summary(route) == "lacks 0.250 similarity; next is 0, 0.100 behind"


def test_prompts_and_targets_are_escaped_in_the_tables(stream):
    edit = stream.edits[0].model_copy(update={"target": SCRIPT})
    route = anchored(0.9, edit, experts=(1,), gates=(1.0,))
    asked = Asked(SCRIPT)
    for text in (table_html(routes_table([asked], None, [route])), route_html(route)):
        assert "<script>" not in text and "&lt;script&gt;" in text


# Before and after any step


def test_an_edit_is_routed_from_its_own_batch_on(model):
    edit = second_batch_edit(model)
    model.ask(edit.prompt)
    seen = []
    for step in range(4):
        model.go_to(step)
        row = model.table().iloc[0]
        seen.append((row["before"], row["after"]))
    assert seen == [(None, BYPASS), (BYPASS, BYPASS), (BYPASS, 1), (1, 1)]


@pytest.mark.parametrize("name", EDITORS)
def test_the_way_through_the_steps_agrees_with_a_look_at_each(sessions, name):
    model = InspectorModel(sessions(name))
    model.ask_edit(second_batch_edit(model).id)
    paths = model.paths()
    for step in range(4):
        model.go_to(step)
        assert paths[step].tolist() == model.table()["after"].tolist()


@pytest.mark.parametrize("name", EDITORS)
def test_looking_back_disturbs_nothing(sessions, name):
    session = sessions(name)
    session.undo()  # so that something can be redone afterwards
    metrics, reports = session.metrics, list(session.reports)
    state = {key: value.clone() for key, value in session.editor.state_dict().items()}
    model = InspectorModel(session)
    model.ask_edit(second_batch_edit(model).id)
    for step in (0, 2, 1):
        model.go_to(step)
        model.table(), model.map(), model.paths()
    assert session.steps == 2 and session.reports == reports
    assert session.metrics.equals(metrics)
    after = session.editor.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[key], value) for key, value in state.items())
    session.redo()
    assert session.steps == 3


def test_a_look_at_the_end_stays_there_while_the_session_learns(stream):
    with opened(stream, "moe") as session:
        session.jump(1)
        model = InspectorModel(session)
        model.refresh()
        session.step()
        model.refresh()
        assert (model.step, model.learned) == (2, 2)


def test_steps_learned_anew_are_looked_at_anew(stream):
    with opened(stream, "literal") as session:
        session.jump(2)
        model = InspectorModel(session)
        model.ask(UNRELATED)
        model.paths()
        session.undo()
        session.undo()
        assert model.paths().shape == (1, 1)
        session.jump(2)
        routes = session.editor.routes(session.editor.prompt_features([UNRELATED]))
        assert model.paths()[2].tolist() == routes.expert[:, 0].tolist()


def test_a_batch_that_is_being_learned_is_not_disturbed(stream):
    with opened(stream, "literal") as session:
        model = InspectorModel(session)
        model.ask(UNRELATED)
        messages = []

        def look(step: int, *_: object) -> None:
            if step == 2:
                with pytest.raises(ll.EditError, match="being learned") as refused:
                    model.table()
                messages.append(str(refused.value))

        session.step(look)
        assert messages and len(model.table()) == 1


def test_a_step_that_was_not_learned_cannot_be_looked_at(model):
    with pytest.raises(ll.EditError, match="between 0 and 3, not 4"):
        model.go_to(4)


# The map


def test_every_learned_edit_is_on_the_map(model):
    model.go_to(2)
    found = model.map()
    assert found.ids == tuple(edit.id for edit in model.session.stream.edits[: 2 * EACH])
    assert found.learned_by.tolist() == [0] * EACH + [1] * EACH
    assert not found.rerouted.any()


def test_scoped_anchors_stay_where_they_are(model):
    late = model.map().edits
    model.go_to(1)
    assert np.allclose(model.map().edits, late[:EACH], atol=1e-9)


def test_routing_values_of_a_kv_anchor_drift(sessions):
    model = InspectorModel(sessions("literal"))
    late = model.map().edits
    model.go_to(1)
    assert np.abs(model.map().edits - late[:EACH]).max() > 1e-3


def test_edits_that_lost_their_expert_are_marked(sessions):
    model = InspectorModel(sessions("literal"))
    found = model.map()
    session = model.session
    routes = session.editor.routes(
        session.editor.prompt_features([edit.prompt for edit in session.stream.edits])
    )
    moved = routes.expert[:, 0].numpy() != np.repeat([0, 1, 2], EACH)
    assert moved.any() and found.rerouted.tolist() == moved.tolist()


def test_a_kv_anchor_has_a_map_of_values_and_one_of_addresses(sessions):
    model = InspectorModel(sessions("kv"))
    assert model.spaces == ("routing values", "addresses")
    values = model.map().edits
    model.space = "addresses"
    assert not np.allclose(model.map().edits, values)


def test_letters_stand_apart_where_stars_coincide(model):
    edit = second_batch_edit(model)
    model.ask_edit(edit.id)
    found, scale = model.map(), np.array([300.0, 300.0])
    ends = found.prompts * scale + np.stack(letter_offsets(found, scale))
    gaps = np.linalg.norm(ends[:, None] - ends, axis=2)[np.triu_indices(len(ends), 1)]
    assert gaps.min() > 6


def test_principal_axes_are_never_mirrored():
    points = np.random.default_rng(3).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    first, mirrored = principal_axes(points), principal_axes(-points)
    assert np.allclose(first.directions, mirrored.directions)
    largest = np.abs(first.directions).argmax(1)
    assert (first.directions[[0, 1], largest] > 0).all()


@pytest.mark.parametrize("points", [np.zeros((0, 4)), np.ones((1, 4)), np.ones((5, 4))])
def test_points_without_directions_fall_on_one_spot(points):
    axes = principal_axes(points)
    assert axes.shares == (0, 0)
    assert not axes.project(points).any()


def test_fifty_six_experts_look_different():
    looks = {(look["color"], look["marker"]) for look in map(group_look, range(56))}
    assert len(looks) == 56


# Prompts


def test_a_prompt_is_on_the_map_once(model):
    model.ask(UNRELATED)
    model.ask(f"  {UNRELATED} ")
    assert len(model.asked) == 1


def test_more_prompts_than_letters_are_refused(model):
    for number in range(MOST_PROMPTS):
        model.ask(f"Prompt number {number}")
    with pytest.raises(ll.EditError, match="remove some first"):
        model.ask(UNRELATED)


def test_an_edit_offers_its_prompt_rephrases_and_locality_prompts(model):
    edit = second_batch_edit(model)
    offers = model.offers(edit.id)
    assert [offer.prompt for offer in offers] == [
        edit.prompt,
        *(rephrase.prompt for rephrase in edit.rephrases),
        *(local.prompt for local in edit.locality),
    ]
    assert offers[0].kind == f"own prompt of {edit.id}"


def test_an_unknown_edit_is_refused(model):
    with pytest.raises(ll.EditError, match="no edit 'nowhere'"):
        model.ask_edit("nowhere")


# The panel


@pytest.fixture
def panel(sessions):
    return RoutingInspector(sessions("scoped"), prompts=())


def test_an_edit_is_picked_and_put_on_the_map(panel):
    edit = second_batch_edit(panel.model)
    panel.edit.value = edit.id
    panel.inspect.click()
    assert [asked.prompt for asked in panel.model.asked] == [
        offer.prompt for offer in panel.model.offers(edit.id)
    ]
    assert edit.prompt in panel.table.value and "nearest edits" in panel.details.value


def test_the_first_edit_is_on_the_map_before_anything_is_asked(sessions):
    panel = RoutingInspector(sessions("scoped"))
    first = panel.model.session.stream.edits[0]
    assert panel.model.asked == panel.model.offers(first.id)
    assert panel.map.value and "of " + first.id in panel.table.value


def test_a_panel_begins_with_the_prompts_it_is_given(sessions):
    panel = RoutingInspector(sessions("scoped"), prompts=[UNRELATED])
    assert [asked.prompt for asked in panel.model.asked] == [UNRELATED]


def test_one_prompt_of_an_edit_is_picked(panel):
    panel.edit.value = second_batch_edit(panel.model).id
    panel.which.index = 2
    panel.inspect.click()
    assert [asked.role for asked in panel.model.asked] == ["light rephrase"]


def test_a_typed_prompt_is_shown_and_never_run(panel):
    panel.text.value = SCRIPT
    assert panel.model.asked[0].prompt == SCRIPT
    assert "&lt;script&gt;" in panel.table.value
    assert "<script>" not in panel.table.value + panel.details.value


def test_the_slider_and_the_arrow_keys_walk_through_the_batches(panel):
    panel.text.value = second_batch_edit(panel.model).prompt
    panel.slider.value = 1
    assert "bypass" in panel.table.value and "before batch 1" in panel.table.value
    panel.press("right")
    assert panel.slider.value == 2 and "could lose" in panel.details.value
    panel.press("left")
    panel.press("left")
    panel.press("left")
    assert panel.slider.value == 0 and not panel.error.value


def test_prompts_are_taken_off_the_map(panel):
    panel.text.value = UNRELATED
    panel.text.value = "Another prompt"
    panel.detailed.value = "A"
    panel.remove.click()
    assert [asked.prompt for asked in panel.model.asked] == ["Another prompt"]
    panel.clear.click()
    assert panel.model.asked == [] and not panel.details.value


def test_the_details_follow_the_chosen_letter(panel):
    panel.text.value = second_batch_edit(panel.model).prompt
    panel.text.value = UNRELATED
    assert panel.detailed.value == "B" and "It lacks" in panel.details.value
    panel.detailed.value = "A"
    assert "It could lose" in panel.details.value


def test_the_map_of_a_kv_anchor_can_be_changed(sessions):
    panel = RoutingInspector(sessions("kv"))
    before = panel.map.value
    panel.space.value = "addresses"
    assert panel.map.value != before


def test_look_again_takes_notice_of_new_batches(stream):
    with opened(stream, "moe") as session:
        panel = RoutingInspector(session, prompts=())
        session.step()
        panel.again.click()
        assert panel.slider.max == panel.slider.value == 1


def test_look_again_offers_edits_that_joined_the_stream(stream):
    with opened(stream, "moe") as session:
        panel = RoutingInspector(session, prompts=())
        panel.edit.value = stream.edits[3].id
        session.add_batch([ll.Edit(id="joined", prompt="The seer of Nowhere is", target="Ada")])
        panel.again.click()
        assert panel.edit.options[-1] == ("4 · The seer of Nowhere is", "joined")
        assert panel.edit.value == stream.edits[3].id


def test_a_mistake_is_told_in_the_panel(panel):
    panel.text.value = "word " * 4000
    assert "shorten it" in panel.error.value
    panel.text.value = UNRELATED
    assert not panel.error.value


def test_an_editor_that_does_not_route_gets_a_clear_message(stream, monkeypatch):
    with opened(stream, "moe") as session:
        monkeypatch.setattr(session.editor, "routes", lambda _: None)
        panel = RoutingInspector(session)
        texts = [getattr(child, "value", "") for child in panel.children]
        assert any("does not route" in text for text in texts)
        drawn = [text.get_text() for text in panel.static_figure().texts]
        assert any("does not route" in text for text in drawn)
        with pytest.raises(ll.EditError, match="does not route"):
            panel.model.table()


def test_every_control_has_a_name(panel):
    for control in (panel.edit, panel.which, panel.text, panel.slider, panel.detailed, panel.again):
        assert control.description


def test_the_static_view_is_a_picture_with_a_text(panel):
    panel.text.value = "A prompt with $one$ dollar"
    bundle = panel._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert "LEMoE scoped on almanac" in bundle["text/plain"]


def test_the_static_view_of_an_empty_map_is_a_picture_too(panel):
    assert not panel.model.asked
    assert base64.b64decode(panel._repr_mimebundle_()["image/png"]).startswith(b"\x89PNG")


def test_the_pictures_follow_the_theme(panel):
    light = panel.map.value
    panel.frame.theme = "dark"
    assert panel.map.value != light
