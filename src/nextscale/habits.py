"""Arguments as users of other libraries write them: taken where they mean the same here, else answered in a sentence.

One literal table for each function that has such guests; nothing else in the package knows another library's words.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nextscale.errors import InputError, quoted
from nextscale.values import is_real, listed, plain


class UnknownArgument(InputError, TypeError):
    """An argument that a function does not have."""


class UnknownAttribute(InputError, AttributeError):
    """An attribute that a pipeline does not have, which users of other libraries look for."""


class Habit(NamedTuple):
    """here: the argument that means the same, or a phrase that says what to do instead; fine: values that ask for what
    is done anyway, lists as tuples; secret: the value is not to be shown.
    """

    here: str
    fine: tuple[Any, ...] = ()
    secret: bool = False


MIX = Habit("mixing of classes is not possible yet; class_labels names one class per picture")
EMBEDDING = Habit("a call takes no embeddings; say it in words, or name the class with class_labels or prompt")
PICTURE = Habit("a call starts from no picture; pipe.edit(picture, ...) paints in one, and docs/edit.md tells more")
EDITING = Habit("pipe.edit(picture, mask_image=...) paints in a picture, and what is masked is drawn wholly anew")
STEPS = Habit(
    "there is one step per scale, {scales} here; plan=pipe.plan().prefix(n) stops after n of them, and steps=n has the "
    "whole picture drawn in n where a model is free in its scales"
)
ONE_SIDE = Habit("this model draws {height}x{width} pixels (height x width) unless height and width are given, both")
CALLBACK = Habit("callback_on_scale_end=f is called as f(event) after every scale")
WEIGHTS = Habit("load reads tokenizer and model of one checkpoint; exchange parts with pipe.tokenizer or pipe.model")
TOKEN = Habit("set the environment variable HF_TOKEN, or log in with hf auth login", (False,), secret=True)
QUANTISED = Habit("weights are loaded as dtype says: float32, bfloat16 or float16", (False,))
MEMORY = Habit("device names the one place where the networks go; nothing is spread or offloaded")

CALL: Mapping[str, Habit] = {
    "num_images_per_prompt": Habit("num_images"),
    "num_samples": Habit("num_images"),
    "batch_size": Habit("num_images"),
    "n": Habit("num_images"),
    "class_label": Habit("class_labels"),
    "label": Habit("class_labels"),
    "labels": Habit("class_labels"),
    "label_B": Habit("class_labels"),
    "classes": Habit("class_labels"),
    "class_name": Habit("class_labels"),
    "class_names": Habit("class_labels"),
    "prompts": Habit("prompt"),
    "text": Habit("prompt"),
    "styles": Habit("style"),
    "seeds": Habit("seed"),
    "g_seed": Habit("seed sets the noise here; the published code's is generator=torch.Generator().manual_seed(n)"),
    "rng": Habit("generator"),
    "more_smooth": Habit("smooth"),
    "topk": Habit("top_k"),
    "topp": Habit("top_p"),
    "cfg": Habit(
        "guidance_scale is w in uncond + w (cond - uncond): a published cfg of t is guidance_scale=1+t for a model of "
        "classes, and guidance_scale=t for one of text"
    ),
    "cfg_scale": Habit("guidance_scale is w in uncond + w (cond - uncond), and 1 switches it off"),
    "guidance": Habit("guidance_scale"),
    "height": ONE_SIDE,
    "width": ONE_SIDE,
    "num_inference_steps": STEPS,
    "num_steps": STEPS,
    "timesteps": STEPS,
    "sigmas": STEPS,
    "callback": CALLBACK,
    "callback_steps": Habit("callback_on_scale_end=f is called after every scale", (1,)),
    "callback_on_step_end": CALLBACK,
    "callback_on_step_end_tensor_inputs": Habit("the event that callback_on_scale_end receives has all there is"),
    "return_dict": Habit("a call gives a result, whose pictures are result.images", (True,)),
    "eta": Habit("tokens are drawn, so there is no eta; temperature, top_k and top_p say how", (0,)),
    "latents": Habit("noise comes from seed, or from generator; there are no latents to start from"),
    "noise": Habit("noise comes from seed, or from generator"),
    "guidance_rescale": Habit("there is guidance_scale alone", (0,)),
    "true_cfg_scale": Habit("there is guidance_scale alone", (1,)),
    "clip_skip": EMBEDDING,
    "prompt_2": EMBEDDING,
    "prompt_3": EMBEDDING,
    "negative_prompt_2": EMBEDDING,
    "prompt_embeds": EMBEDDING,
    "pooled_prompt_embeds": EMBEDDING,
    "negative_prompt_embeds": EMBEDDING,
    "negative_pooled_prompt_embeds": EMBEDDING,
    "prompt_attention_mask": EMBEDDING,
    "max_sequence_length": EMBEDDING,
    "cross_attention_kwargs": Habit("there is no cross-attention to set", ({},)),
    "attention_kwargs": Habit("there is no attention to set", ({},)),
    "joint_attention_kwargs": Habit("there is no attention to set", ({},)),
    "added_cond_kwargs": EMBEDDING,
    "ip_adapter_image": PICTURE,
    "ip_adapter_image_embeds": PICTURE,
    "mask_image": EDITING,
    "control_image": PICTURE,
    "strength": EDITING,
    "mix": MIX,
    "class_weights": MIX,
    "prompt_weights": MIX,
    "unconditional": Habit("class_labels=[None] (or 'unconditional') draws a picture of no class", (False,)),
    "do_sample": Habit("tokens are always drawn; top_k=1 takes the likeliest", (True,)),
    "typical_p": Habit("temperature, top_k and top_p say how tokens are drawn", (1,)),
    "max_new_tokens": STEPS,
    "device": Habit("pipe.to(device) moves the networks"),
    "dtype": Habit("pipe.to(dtype) casts the networks"),
    "progress": Habit("pipe.set_progress_bar_config(disable=True) switches the bar off", (True,)),
    "disable_progress_bar": Habit("pipe.set_progress_bar_config(disable=True) switches the bar off", (False,)),
}
"""What ``Pipeline.__call__`` and ``Pipeline.stream`` are asked for."""

LOAD: Mapping[str, Habit] = {
    "torch_dtype": Habit("dtype"),
    "device_map": Habit("device"),
    "use_safetensors": Habit("weights are safetensors files and nothing else", (True,)),
    "low_cpu_mem_usage": Habit("weights are always read one by one", (True, False)),
    "subfolder": Habit("name a folder itself, as in load('folder/model')", ("",)),
    "variant": Habit("a checkpoint has one set of weights; dtype says how they are loaded"),
    "local_files_only": Habit("set the environment variable HF_HUB_OFFLINE=1, or name a folder", (False,)),
    "force_download": Habit("delete the folder in the cache, and it is fetched anew", (False,)),
    "resume_download": Habit("a download is taken up again by itself", (True, False)),
    "cache_dir": Habit("the environment variable NEXTSCALE_CACHE names the cache's folder"),
    "token": TOKEN,
    "use_auth_token": TOKEN,
    "proxies": Habit("set the environment variable HTTPS_PROXY"),
    "mirror": Habit("set the environment variable HF_ENDPOINT"),
    "safety_checker": Habit("there is no safety checker", (False,)),
    "requires_safety_checker": Habit("there is no safety checker", (False,)),
    "feature_extractor": Habit("there is no feature extractor"),
    "image_encoder": Habit("there is no image encoder"),
    "text_encoder": Habit("a model that reads text names its encoder in its config.json"),
    "scheduler": Habit("there is no scheduler; pipe.plan() says what happens at every scale"),
    "vae": WEIGHTS,
    "unet": WEIGHTS,
    "transformer": WEIGHTS,
    "tokenizer": WEIGHTS,
    "model": WEIGHTS,
    "custom_pipeline": Habit("no code is loaded from a checkpoint"),
    "trust_remote_code": Habit("no code is ever loaded from a checkpoint", (False,)),
    "quantization_config": QUANTISED,
    "load_in_8bit": QUANTISED,
    "load_in_4bit": QUANTISED,
    "attn_implementation": Habit("attention is PyTorch's own", ("sdpa",)),
    "max_memory": MEMORY,
    "offload_folder": MEMORY,
    "offload_state_dict": MEMORY,
    "output_loading_info": Habit("load gives the pipeline, or says what does not fit", (False,)),
    "ignore_mismatched_sizes": Habit("weights fit a model or are refused", (False,)),
}
"""What ``load`` is asked for."""

TO: Mapping[str, Habit] = {
    "torch_dtype": Habit("dtype"),
    "non_blocking": Habit("a move is over when to returns", (False, True)),
    "silence_dtype_warnings": Habit("nothing is warned of", (False, True)),
    "copy": Habit("networks are moved in place", (False,)),
    "memory_format": Habit("memory formats are chosen here"),
}
"""What ``Pipeline.to`` is asked for."""

BAR: Mapping[str, Habit] = {"description": Habit("desc"), "enable": Habit("disable=True or False switches the bar")}
"""What ``Pipeline.set_progress_bar_config`` is asked for."""

ATTRIBUTES: Mapping[str, str] = {
    "enable_*": "nothing to switch on: pipe.to(device, dtype) is what decides about memory and speed, and "
    "load(name, low_memory=True) about a text encoder",
    "disable_*": "nothing to switch off: pipe.to(device, dtype) is what decides about memory and speed",
    "load_*": "nothing to add: nextscale.load(name) loads a whole model",
    "unload_*": "nothing to take off: nextscale.load(name) loads a whole model",
    "fuse_*": "nothing to fuse",
    "unet": "the network is pipe.model",
    "transformer": "the network is pipe.model",
    "vae": "encoder and decoder are pipe.tokenizer, and pipe.encode and pipe.decode use them",
    "scheduler": "pipe.plan() says what happens at every scale",
    "text_encoder": "pipe.conditioner reads what a call asks for",
    "vocabulary": "pipe.conditioner reads what a call asks for, and it knows no classes",
    "safety_checker": "there is none",
    "feature_extractor": "there is none",
    "config": "pipe.model.config and pipe.tokenizer.config",
    "progress_bar": "pipe.set_progress_bar_config(disable=True) switches the bar off",
    "generate": "call the pipeline itself: pipe('animal-mammal', seed=1)",
    "cuda": "pipe.to('cuda')",
    "cpu": "pipe.to('cpu')",
    "half": "pipe.to('float16')",
    "float": "pipe.to('float32')",
    "bfloat16": "pipe.to('bfloat16')",
    "eval": "the networks are always in evaluation mode",
    "train": "nextscale train trains; a loaded model only draws",
    "parameters": "pipe.model.parameters() and pipe.tokenizer.parameters()",
    "names": "pipe.vocabulary.names",
    "labels": "pipe.vocabulary.names",
    "classes": "pipe.vocabulary.names",
    "class_names": "pipe.vocabulary.names",
    "styles": "pipe.conditioner.styles",
}
"""What is looked for at a pipeline; a star stands for the rest of a name."""


def translated(
    given: Mapping[str, Any],
    elsewhere: Mapping[str, Any],
    habits: Mapping[str, Habit],
    own: Sequence[str],
    **facts: Any,
) -> dict[str, Any]:
    """The arguments ``elsewhere``, which a function's signature does not name, in the function's own words.

    given: its own that were given; own: the names of all; facts: what a table's phrases mention, and by the same name
    the value that is fine. ``None`` asks for nothing. Raises ``UnknownArgument`` for all that means something else.
    """
    found = dict[str, Any]()
    for name, value in elsewhere.items():
        if value is None and (name in habits or name in own):
            continue
        if name in own:
            found[name] = value
            continue
        if name not in habits:
            raise UnknownArgument(f"there is no argument {quoted(name)}; {_nearest(name, habits, own)}")
        here, fine, secret = habits[name]
        if here in own:
            if here in given or here in found:
                raise UnknownArgument(f"{name} and {here} were both given, and mean the same; expected {here} alone")
            found[here] = value
        elif not _among(value, (*fine, facts[name]) if name in facts else fine):
            raise UnknownArgument(f"{name} is {'not read here' if secret else quoted(value)}; {here.format(**facts)}")
    return found


def sized(given: Mapping[str, Any], elsewhere: Mapping[str, Any]) -> Mapping[str, Any]:
    """``elsewhere`` with a height and a width as the size that they are. given: the arguments in our words. Raises
    ``UnknownArgument`` where the size is said in another way, too.
    """
    height, width = (elsewhere.get(name) for name in ("height", "width"))
    if height is None or width is None:
        return elsewhere
    for name in ("size", "scales", "ratio", "pixels"):
        if given.get(name) is not None or elsewhere.get(name) is not None:
            raise UnknownArgument(f"height, width and {name} were given; expected height and width, or {name} alone")
    others = {name: value for name, value in elsewhere.items() if name not in ("height", "width")}
    return others | {"size": (plain(height), plain(width))}


def missing_attribute(name: str) -> AttributeError:
    """What to raise for an attribute that a pipeline lacks."""
    pattern = name.partition("_")[0] + "_*"
    said = ATTRIBUTES.get(name) or ATTRIBUTES.get(pattern)
    return (
        UnknownAttribute(f"a pipeline has no {name}; {said}") if said else AttributeError(f"a pipeline has no {name}")
    )


def _among(value: Any, fine: Iterable[Any]) -> bool:
    entries = listed(value)
    value = plain(value) if entries is None else tuple(entries)
    return any(value == one for one in fine if type(value) is type(one) or (is_real(value) and is_real(one)))


def _nearest(name: str, habits: Mapping[str, Habit], own: Sequence[str]) -> str:
    """The likeliest of the arguments there are, or all of them."""
    near = difflib.get_close_matches(name, [*own, *habits], n=1, cutoff=0.75)
    if not near:
        return f"expected {', '.join(own)}"
    here = near[0] if near[0] in own else habits[near[0]].here
    return f"did you mean {here}?" if here in own else f"expected {', '.join(own)}"
