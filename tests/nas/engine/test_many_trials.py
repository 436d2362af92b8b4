"""Of more trials than predictors can take, the guided sampler gives them some, and goes on."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from search_problems import Layered, as_stored, same, search

from nas.engine import guided
from nas.engine.pareto import non_dominated


def test_many_trials_are_resumed_in_the_middle_of_a_batch(monkeypatch):
    monkeypatch.setattr(guided, "MOST_BATCH", 12)
    monkeypatch.setattr(guided, "MOST_FITTED", 30)
    monkeypatch.setattr(guided, "BATCH_SHARE", 1.0)
    fitted = []
    fit = guided.AccuracyPredictor.fit
    monkeypatch.setattr(
        guided.AccuracyPredictor,
        "fit",
        lambda model, rows, *rest: fitted.append(len(rows)) or fit(model, rows, *rest),
    )
    toy = Layered(9)
    whole = search(toy, "guided", 60)
    assert max(fitted) == 30
    starts = sorted({t.origin["fitted_trials"] for t in whole if "fitted_trials" in t.origin})
    assert starts[-1] > 30
    assert max(np.diff(starts)) == 12
    for cut in (starts[-1], starts[-1] + 3):
        resumed = search(toy, "guided", cut + 1, history=[as_stored(t) for t in whole[:cut]])
        assert same(resumed[-1], whole[cut]), f"after {cut} trials"
    assert toy.hypervolume(whole) > toy.hypervolume(search(toy, "random", 60))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), most=st.integers(2, 40))
def test_those_taken_are_so_many_and_hold_the_front(seed, n, most):
    values = np.random.default_rng(seed).integers(0, 9, (n, 2)).astype(float)
    taken = guided._nearest(values, most)
    assert len(set(taken.tolist())) == len(taken) == min(n, most)
    front = np.flatnonzero(non_dominated(values, [False, False]))
    if n <= most or len(front) <= most // 2:
        assert set(front) <= set(taken)
