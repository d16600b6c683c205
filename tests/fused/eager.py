"""What the tests of eager steps share."""

import contextlib

import pytest

from keras_legacy_opt.step import plan

# What a step calls, and others override.
METHODS = (
    "_aggregate_gradients",
    "_decayed_lr",
    "_distributed_apply",
    "_get_hyper",
    "_prepare",
    "_prepare_local",
    "_resource_apply_dense",
    "_transform_gradients",
    "_transform_unaggregated_gradients",
    "get_slot",
)
# What variables of one optimizer have of their own, by their names.
SELECTING = {
    "exclude_from_weight_decay": ["b"],
    "learning_rate_factors": {"c": 0.5},
}


@contextlib.contextmanager
def no_plans():
    """No step is planned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan.Plan, "takes", lambda self, grads: False)
        yield
