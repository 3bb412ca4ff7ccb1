"""One agent of the memory benchmark: ``resident.py BUS NUMBER AGENTS``; each line of its input is a step."""

import sys


def main() -> None:
    bus_name, number, agents = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    agent = None
    print("done", flush=True)
    for line in sys.stdin:
        match line.strip():
            case "import":
                import fastcomm.agent
                import fastcomm.bus
            case "join":
                agent = fastcomm.bus.connect(bus_name, f"a{number}")
                agent.subscribe(f"agent.{number}")
            case "talk":
                agent.publish(f"agent.{(number + 1) % agents}", b"a first message")
                agent.receive(60.0)
        print("done", flush=True)


main()
