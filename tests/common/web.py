"""A web server that answers with the client's address: web.py PORT, on all addresses."""
import http.server, socket, sys


class From(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].removeprefix("::ffff:").encode())

    def log_message(self, *_):
        pass


class Both(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


Both(("::", int(sys.argv[1])), From).serve_forever()
