"""Parameters of components and recipe tables: strict, frozen, closed pydantic models."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Params(BaseModel):
    """Base of every parameter model: no coercion, no unknown keys, no inf or nan, no later change.

    Give every field a range and a one-line description:

        class KnnParams(Params):
            k: int = Field(2, ge=1, description="neighbours whose distances are averaged")
    """

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=False
    )
