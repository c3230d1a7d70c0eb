"""Doors: the addresses that a gateway listens on, and what a connection to each may ask for."""

from enum import StrEnum

DOOR = "turntable.door"
"""Key of `scope["extensions"]` under which it says through which `Door` a request came."""


class Door(StrEnum):
    """`WHOLE` serves everything; `PUBLIC` what applications need, while operators have a door of their own."""

    WHOLE = "whole"
    PUBLIC = "public"
