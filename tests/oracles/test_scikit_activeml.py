"""Uncertainty against scikit-activeml."""

import numpy as np
import pytest

from lightning_coreset.active.scores import model_uncertainty
from tests.helpers.examples import normal_rows
from tests.helpers.references_active import softmax

pytestmark = pytest.mark.oracle("skactiveml")


@pytest.mark.parametrize(
    ("measure", "theirs"),
    [("entropy", "entropy"), ("margin", "margin_sampling"), ("least_confidence", "least_confident")],
)
def test_items_are_in_the_same_order(measure: str, theirs: str) -> None:
    from skactiveml.pool import uncertainty_scores

    logits = 3 * normal_rows(200, 6)
    scores = uncertainty_scores(softmax(logits.double().numpy()), method=theirs)
    ours = model_uncertainty(logits, measure).numpy()
    assert (np.argsort(-ours, kind="stable") == np.argsort(-scores, kind="stable")).all()
