"""Old home of `Method` and the registry, kept for one release: import from `textmask.methods.base` and `.registry`."""

from textmask.methods.base import Method as Method
from textmask.methods.registry import Arm as Arm
from textmask.methods.registry import Card as Card
from textmask.methods.registry import MethodSpec as MethodSpec
from textmask.methods.registry import get_method as get_method
from textmask.nn.teacher import Teacher as Teacher
