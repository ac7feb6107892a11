"""rlexp: change one term of a policy-gradient objective, and know the same day whether it helped."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlexp.saved import load_policy

__version__ = "0.1.0"
__all__ = ["__version__", "load_policy"]


def __getattr__(name: str) -> Any:
    """`load_policy` is imported when first asked for, as it brings torch along."""
    if name == "load_policy":
        from rlexp.saved import load_policy

        return load_policy
    raise AttributeError(name)
