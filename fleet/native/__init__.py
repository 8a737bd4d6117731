"""The native messaging host: a browser extension's door to the LM Studio of this machine.

Imports no Django, and works without the web server. The wire is described in docs/native-messaging.md.
"""
