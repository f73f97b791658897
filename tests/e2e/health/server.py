"""A web server for one real server: says its name, and misbehaves as it is told, a letter at a time, on
standard input: f fine, s slow, w wrong answers, r resets. Ends with its input."""

import socket
import socketserver
import struct
import sys
import threading
import time

address, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
how = "f"


class Talk(socketserver.BaseRequestHandler):
    def handle(self):
        while self.request.recv(1024):
            if how == "r":
                now = struct.pack("ii", 1, 0)
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                return
            if how == "s":
                time.sleep(0.4)
            status = "503 Busy" if how == "w" else "200 OK"
            text = f"HTTP/1.1 {status}\r\ncontent-length: {len(name)}\r\n\r\n{name}"
            self.request.sendall(text.encode())


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def shutdown_request(self, request):
        # no FIN before the reset
        request.close()

    def handle_error(self, request, client_address):
        # clients may leave as they like
        pass


server = Server((address, port), Talk)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
while letter := sys.stdin.read(1):
    how = letter
