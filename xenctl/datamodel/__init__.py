"""XenAPI as data: which classes, fields, messages, errors and releases there are.

`load()` gives the model. The generated client (`xenctl.api`) is made from it, and the fake server is driven by it.

    types.py       the types of values
    model.py       the model, loaded lazily from table.json
    importer.py    brings table.json up to date from what upstream publishes, which upstream.py reads
    generate.py    writes xenctl/api from the model
"""

from .model import (
    MISSING,
    Class,
    Field,
    Lifecycle,
    Message,
    Missing,
    Model,
    NamedRelease,
    Order,
    Param,
    Product,
    Relation,
    load,
)
from .types import Enum, Map, Option, Record, Ref, Scalar, Set, Type, parse

__all__ = [
    "MISSING",
    "Class",
    "Enum",
    "Field",
    "Lifecycle",
    "Map",
    "Message",
    "Missing",
    "Model",
    "NamedRelease",
    "Option",
    "Order",
    "Param",
    "Product",
    "Record",
    "Ref",
    "Relation",
    "Scalar",
    "Set",
    "Type",
    "load",
    "parse",
]
