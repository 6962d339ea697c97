"""pyftpdlib with TLS: pyftpd.py HOST PORT DIR PEM [implicit|no-epsv]"""
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import TLS_FTPHandler
from pyftpdlib.servers import ThreadedFTPServer

host, port, folder, pem = sys.argv[1:5]
users = DummyAuthorizer()
users.add_anonymous(folder)
users.add_user("bob", "secret", folder)
# May list folders, but not read files.
users.add_user("restricted", "secret", folder, perm="el")


class Handler(TLS_FTPHandler):
    certfile = pem
    authorizer = users

    def handle(self):
        # Implicit TLS starts before the greeting, explicit TLS on request.
        if "implicit" in sys.argv:
            self.secure_connection(self.ssl_context)
        else:
            super().handle()

    def handle_ssl_established(self):
        if "implicit" in sys.argv:
            super().handle()


if "no-epsv" in sys.argv:
    # Like a server from before 1998, when EPSV was introduced.
    Handler.proto_cmds = {name: command for name, command in Handler.proto_cmds.items() if name != "EPSV"}

ThreadedFTPServer((host, int(port)), Handler).serve_forever()
