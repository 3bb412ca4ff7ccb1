"""What other compiled modules may use of the codec: an ``Encoder`` to keep, and ``c_decode``."""

from fastcomm._core.decoder cimport c_decode
from fastcomm._core.encoder cimport Encoder
