"""pyftpdlib with TLS: pyftpd.py HOST PORT DIR PEM [implicit|old]"""
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import TLS_FTPHandler
from pyftpdlib.servers import ThreadedFTPServer

host, port, folder, pem = sys.argv[1:5]
users = DummyAuthorizer()
users.add_anonymous(folder)
users.add_user("bob", "secret", folder)
# May look, and read nothing.
users.add_user("poor", "secret", folder, perm="el")


class Handler(TLS_FTPHandler):
    certfile = pem
    authorizer = users

    def handle(self):
        # TLS before the greeting, or when it is asked for.
        if "implicit" in sys.argv:
            self.secure_connection(self.ssl_context)
        else:
            super().handle()

    def handle_ssl_established(self):
        if "implicit" in sys.argv:
            super().handle()


if "old" in sys.argv:
    # A server of before 1998.
    Handler.proto_cmds = {name: how for name, how in Handler.proto_cmds.items() if name != "EPSV"}

ThreadedFTPServer((host, int(port)), Handler).serve_forever()
