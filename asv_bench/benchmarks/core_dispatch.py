"""EventBus.emit, mirroring fastcomm/_core/dispatch.pyx; beside it a loop over the functions.

By hand: ``Emit().setup(10)`` in IPython, then ``%timeit`` on the bodies below.
"""

from fastcomm import EventBus


def listen(subject, data):
    pass


class Emit:
    params = (1, 10)
    param_names = ("listeners",)

    def setup(self, listeners):
        self.functions = [listen] * listeners
        bus, ranked, self.queued = EventBus(), EventBus(), EventBus(queued=True)
        for number in range(listeners):
            bus.on("tasks.*.done", listen)
            ranked.on("tasks.*.done", listen, priority=-number)
            self.queued.on("tasks.*.done", listen)
        self.emit, self.emit_ranked = bus.emit, ranked.emit

    def time_bare_loop(self, listeners):
        for function in self.functions:
            function("tasks.render.done", 1)

    def time_emit(self, listeners):
        self.emit("tasks.render.done", 1)

    def time_emit_with_priorities(self, listeners):
        self.emit_ranked("tasks.render.done", 1)

    def time_emit_and_dispatch(self, listeners):
        self.queued.emit("tasks.render.done", 1)
        self.queued.dispatch(1)
