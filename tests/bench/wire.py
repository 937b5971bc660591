"""PostgreSQL's protocol over the server's socket, with messages made before they are timed: a client that costs little, and
that can be connected to several databases and speak to each of them by turns.
"""

import os
import select
import socket
import struct
import time

SIZE = 1 << 16
READY = b"Z\0\0\0\5"  # and one byte more: the state of the transaction


def message(kind, body):
    return kind + struct.pack("!i", len(body) + 4) + body


def text(value):
    return value.encode() + b"\0"


def query(statement):
    return message(b"Q", text(statement))


def execute(name, *values):
    """Runs a prepared statement, with the messages that libpq sends for it."""
    encoded = b"".join(struct.pack("!i", len(value)) + value for value in (str(v).encode() for v in values))
    bind = text("") + text(name) + struct.pack("!hh", 0, len(values)) + encoded + struct.pack("!h", 0)
    return message(b"B", bind) + message(b"D", b"P\0") + message(b"E", b"\0" + struct.pack("!i", 0)) + message(b"S", b"")


def rows(answer):
    """The rows of an answer and what the statement says that it did, as bytes; an error is raised."""
    kept, at = [], 0
    while at < len(answer):
        kind, size = answer[at : at + 1], struct.unpack_from("!i", answer, at + 1)[0]
        if kind == b"E":
            fields = answer[at + 5 : at + size].split(b"\0")
            raise RuntimeError(" ".join(field[1:].decode() for field in fields if field[:1] in b"CMDH" and field))
        if kind in b"DC":
            kept.append(answer[at : at + 1 + size])
        at += 1 + size
    if at != len(answer) or answer[-6:-1] != READY:
        raise RuntimeError("an answer was cut off")
    return b"".join(kept)


class Connection:
    """A connection of a role, which needs no password here."""

    def __init__(self, role, database):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(f"{os.environ['PGHOST']}/.s.PGSQL.{os.environ['PGPORT']}")
        options = text("user") + text(role) + text("database") + text(database) + b"\0"
        self.ask(struct.pack("!ii", len(options) + 8, 196608) + options)

    def ask(self, sent):
        """The answer to one message that ends a round trip."""
        self.socket.sendall(sent)
        answer = self.socket.recv(SIZE)
        while answer[-6:-1] != READY:
            received = self.socket.recv(SIZE)
            if not received:
                raise RuntimeError(f"the server closed the connection: {answer!r}")
            answer += received
        if answer[:1] == b"E":
            rows(answer)
        return answer

    def prepare(self, name, statement):
        rows(self.ask(message(b"P", text(name) + text(statement) + struct.pack("!h", 0)) + message(b"S", b"")))

    def run(self, transaction):
        """Sends messages one after the other, each when the one before is answered; the answers and the seconds they took."""
        ask, began = self.ask, time.perf_counter()
        answers = [ask(sent) for sent in transaction]
        return answers, time.perf_counter() - began

    def close(self):
        self.socket.sendall(message(b"X", b""))
        self.socket.close()


def run_all(connections, transactions):
    """Transactions on several connections, each of which takes the next one when it is done with its last.

    The answers of each transaction, in order, and the seconds that all of them took together.
    """
    answers = [[] for _ in transactions]
    poll = select.epoll()
    busy = {}  # by file number: connection, number of the transaction, messages still to send, what is received
    waiting = iter(range(len(transactions)))

    def begin(connection):
        number = next(waiting, None)
        if number is None:
            del busy[connection.socket.fileno()]
            return
        messages = iter(transactions[number])
        busy[connection.socket.fileno()] = [connection.socket, number, messages, b""]
        connection.socket.sendall(next(messages))

    by_number = {connection.socket.fileno(): connection for connection in connections}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
        busy[number] = None
    began = time.perf_counter()
    for connection in connections:
        begin(connection)
    while busy:
        for number, _ in poll.poll():
            state = busy[number]
            received = state[0].recv(SIZE)
            if not received:
                raise RuntimeError(f"the server closed the connection: {state[3]!r}")
            state[3] += received
            if state[3][-6:-1] != READY:
                continue
            answers[state[1]].append(state[3])
            state[3] = b""
            following = next(state[2], None)
            if following is None:
                begin(by_number[number])
            else:
                state[0].sendall(following)
    seconds = time.perf_counter() - began
    poll.close()
    return answers, seconds
