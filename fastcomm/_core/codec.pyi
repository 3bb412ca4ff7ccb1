from fastcomm._core.decoder import decode as decode
from fastcomm._core.encoder import encode as encode
from fastcomm._core.encoder import encode_into as encode_into

__all__ = ["decode", "encode", "encode_into"]
