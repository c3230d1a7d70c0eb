"""PEFT's name for a tensor, out of the name that a training wrapper gave it."""

import re

PREFIX = "base_model.model."
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_fpw_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
}
_PARALLEL = "module"
_NAMED = re.compile(r"(?P<matrix>.+\.lora_[AB])\.(?P<adapter>[^.]+)(?P<weight>\.weight)")
_BARE = re.compile(r".+\.lora_[AB]")
_MATRIX = re.compile(r".+\.lora_[AB]\.weight")


def plain_module(name: str) -> tuple[str, tuple[str, ...]]:
    """A module's name without wrappers, and what was taken out of it, in words."""
    kept, taken = list[str](), list[str]()
    for part in name.split("."):
        if part in _WRAPPERS:
            taken.append(f"'{part}.' of {_WRAPPERS[part]}")
        elif part == _PARALLEL and kept in ([], ["base_model"], ["base_model", "model"]):
            taken.append(f"'{part}.' of DDP or DeepSpeed")
        else:
            kept.append(part)
    return ".".join(kept), tuple(taken)


def plain_name(key: str) -> tuple[str, tuple[str, ...]]:
    """PEFT's name for an A or B matrix, and in words what had to change; other tensors keep their names."""
    name, taken = plain_module(key)
    changes = list(taken)
    if (match := _NAMED.fullmatch(name)) is not None:
        changes.append(f"PEFT's own name for the adapter, '.{match['adapter']}'")
        name = f"{match['matrix']}{match['weight']}"
    elif _BARE.fullmatch(name):
        changes.append("no '.weight' at the end")
        name = f"{name}.weight"
    if not _MATRIX.fullmatch(name):
        return key, ()
    if not name.startswith(PREFIX):
        changes.append(f"no '{PREFIX}' in front")
        name = f"{PREFIX}{name}"
    return name, tuple(changes)
