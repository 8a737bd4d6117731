"""What `daemonpulse help` says. Imports no Django, which would take a second."""

from daemonpulse import program

GROUPS = {
    "Run": {
        "up": "starts the server: pages, API and execution",
        "client": "starts the same pages for a server elsewhere, also without a network",
        "worker": "executes prompts only, here or on another machine with the same database",
        "agent": "tells a server of this machine's GPUs, memory and processes",
        "simulate": "runs a simulated daemon, to try things out",
    },
    "Sign in and devices": {
        "sign-in-link": "prints a link that signs a user in, once",
        "pair-device": "prints a code that pairs a phone or a computer",
        "devices": "lists the paired devices, renames or revokes one",
        "join": "pairs this client with a server, also while it runs",
        "certs": "makes or renews the certificates for TLS, and says where they are",
        "rotate-key": "encrypts everything with a new key",
    },
    "Prompts": {
        "enqueue": "queues a prompt; --wait prints the answer as it comes",
        "queue-status": "shows what runs and what waits in each lane, and why",
        "pause-lane": "pauses a model's lane",
        "resume-lane": "resumes it",
        "retry-failed": "queues failed prompts again",
        "export-history": "writes prompts and answers as JSON lines",
    },
    "Nodes": {
        "fleet-status": "says of every node whether it answers, and what to do about it",
        "node-add": "adds a node",
        "check-node": "asks a node what it is and which models it has",
        "gpus": "reads the GPUs of this machine and of every node; --watch goes on",
        "daemon-start": "starts a node's LM Studio",
        "daemon-stop": "stops it",
        "daemon-restart": "stops and starts it",
    },
    "Models": {
        "models": "shows the models of all nodes and what is loaded",
        "fit": "says whether a load would fit, without loading",
        "load": "loads a model",
        "eject": "unloads a copy, or all that are idle",
        "download": "has a node download a model",
    },
    "Browser extension": {
        "install-native-host": "lets an extension reach the LM Studio of this machine",
        "uninstall-native-host": "takes that back",
        "native-host": "serves the extension; the browser starts it",
    },
}
WIDTH = max(len(name) for commands in GROUPS.values() for name in commands)


def text() -> str:
    """Our own commands, a line each."""
    lines = [f"{program.name()} COMMAND [--data-dir FOLDER] …"]
    for title, commands in GROUPS.items():
        lines += ["", title]
        lines += [f"  {name:<{WIDTH}}  {meaning}" for name, meaning in commands.items()]
    return "\n".join([
        *lines, "",
        "help COMMAND says more of one; help --all lists those of Django, too.",
        "The data folder is ~/.local/share/daemonpulse, a client's daemonpulse-client beside it.",
    ])  # fmt: skip
