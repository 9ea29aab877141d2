"""Ways of learning, one file each; one table per verb.

To add one: write its module, add its line here and its name to ``config``, and a test.
"""

from cellkit.config import PretrainMethodName
from cellkit.methods.supervised import Supervised

__all__ = ["PRETRAIN", "Supervised"]

PRETRAIN: dict[PretrainMethodName, type[Supervised]] = {"supervised": Supervised}
