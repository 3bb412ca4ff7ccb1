from typing import final

@final
class Turn:
    def __new__(cls) -> Turn: ...
