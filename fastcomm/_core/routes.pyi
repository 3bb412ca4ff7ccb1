from typing import final

from fastcomm._core.tables import SubscriptionTable

@final
class Route: ...

@final
class Routes:
    def __init__(self, subscriptions: SubscriptionTable, max_owner: int, owner: int) -> None: ...
