"""Numbers of a recipe are numbers, within their bounds; everything else is refused in one sentence."""

from __future__ import annotations

import pytest

from nextscale.errors import InputError
from nextscale.training.recipe import load_recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.batch=true", "run.batch: input should be a whole number (found True)"),
        ("run.batch=yes", "run.batch: input should be a whole number (found True)"),
        ("run.batch='8'", "run.batch: input should be a whole number (found '8')"),
        ("optim.lr=true", "optim.lr: input should be a valid number (found True)"),
        ("optim.lr='0.1'", "optim.lr: input should be a valid number (found '0.1')"),
        ("optim.weight_decay_end=false", "optim.weight_decay_end: input should be a valid number (found False)"),
        ("optim.betas=[0.9, true]", "optim.betas.1: input should be a valid number (found True)"),
        ("model.codes=true", "model.codes: input should be a whole number (found True)"),
        ("model.autoencoder.mult=[1, true, 2]", "model.autoencoder.mult.1: input should be a whole number"),
        ("model.sizes=[true, 2]", "a scale is a side or a (height, width) pair of whole numbers, not True"),
        ("optim.betas=[1, 1]", "optim.betas.0: input should be less than 1 (found 1)"),
        ("schedule.epochs=.inf", "schedule.epochs: input should be a finite number"),
        ("optim.lr=.nan", "optim.lr: input should be a finite number"),
        ("model.beta=.inf", "model.beta: input should be a finite number"),
        ("model.beta=-1", "model: beta is -1.0; expected a finite number, 0 or more"),
        ("model.phi=-1", "model: phi is -1; expected 0 or more"),
        ("model.phi_ratio=2", "model: phi_ratio is 2.0; expected 0 to 1"),
        ("model.codes=0", "model: codes is 0; expected 1 or more"),
        ("model.codes=-1", "model: codes is -1; expected 1 or more"),
        ("model.quant_kernel=2", "model: quant_kernel is 2; expected an odd number"),
        ("model.autoencoder.ch=0", "ch is 0; expected 1 or more"),
        ("model.autoencoder.res_blocks=-1", "res_blocks is -1; expected 1 or more"),
        ("model.autoencoder.groups=0", "groups is 0; expected 1 or more"),
        ("model.autoencoder.mult=[1, 1, 0]", "mult is [1, 1, 0]; expected at least one factor, and each 1 or more"),
        ("model.autoencoder.mult=[]", "mult is []; expected at least one factor"),
        ("model.autoencoder.dropout=2", "dropout is 2.0; expected 0 to 1"),
    ],
)
def test_what_is_no_number_or_out_of_bounds(override: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        load_recipe("tokenizer-emoji", [override])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.mlp_ratio=.inf", "model.mlp_ratio: input should be a finite number"),
        ("loss.label_smoothing=-0.1", "loss.label_smoothing: input should be greater than or equal to 0"),
        ("loss.scale_weights=[1, true]", "loss.scale_weights.1: input should be a valid number (found True)"),
    ],
)
def test_what_a_generator_refuses(override: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        load_recipe("var-emoji", [override])
    assert message in str(refused.value)


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("1", 1.0), ("1.5e-4", 1.5e-4), ("2.0e1", 20.0)])
def test_every_way_to_write_a_number(text: str, value: float) -> None:
    """YAML 1.1 takes ``1e-4`` for a word."""
    assert load_recipe("tokenizer-emoji", [f"optim.lr={text}"]).optim.lr == value
    assert load_recipe("tokenizer-emoji", [f"optim={{lr: {text}, clip: 2}}"]).optim.lr == value
