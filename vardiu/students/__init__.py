r"""Students: generators from a latent to a sample, which is what is trained and shipped."""

from .affine import Affine
from .base import Generator
from .few_step import FewStep, OneStep, State
from .flow_map import FlowMap
from .framed import Frame, Framed
from .guided import GuidedStudent
from .picture import Picture
from .prompted import with_prompts, without_prompts
from .pushforward import Pushforward
from .restorer import Restorer
from .table import Table

__all__ = [
    "Affine",
    "Generator",
    "FewStep",
    "OneStep",
    "State",
    "FlowMap",
    "Frame",
    "Framed",
    "GuidedStudent",
    "Picture",
    "with_prompts",
    "without_prompts",
    "Pushforward",
    "Restorer",
    "Table",
]
