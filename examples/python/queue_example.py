"""A queue from Python: create, send, receive, update, delete, and what errors look like.

Run it with `examples/python/run.sh` against a running cluster. The stubs come from `proto/`, so
nothing here is specific to Python: any language with gRPC does the same calls.
"""

import os
import sys
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from zoneq.queue.v1 import queue_pb2, queue_pb2_grpc

# Every call has a deadline. A call that cannot be served by then says so; it never hangs.
DEADLINE_SECONDS = 10


class Session:
    """Names this client's writes, so that a retry is never run twice.

    One write at a time, so the lowest unanswered sequence is the one in flight.
    """

    def __init__(self):
        self.client_id = uuid.uuid4().bytes
        self.sequence = 0

    def next(self):
        self.sequence += 1
        return queue_pb2.Session(
            client_id=self.client_id,
            sequence=self.sequence,
            lowest_unanswered=self.sequence,
        )


def reason(error):
    """The ErrorInfo of a failed call: what a program decides by (the text is for people)."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "zoneq", info
            return info.reason
    raise AssertionError(f"a failed call without ErrorInfo: {error}")


def write(call, request, session, attempts=5):
    """A write that is safe to retry: the same session tag goes with every attempt."""
    request.session.CopyFrom(session.next())
    for attempt in range(1, attempts + 1):
        try:
            return call(request, timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            # Not now, or outcome unknown: the tag makes asking again harmless.
            again = error.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
            if not again or attempt == attempts:
                raise


def refused(call, request, expected):
    """Makes a call that must be refused, and shows how."""
    try:
        call(request, timeout=DEADLINE_SECONDS)
    except grpc.RpcError as error:
        found = reason(error)
        assert found == expected, f"expected {expected}, got {found}: {error.details()}"
        print(f"refused as it should be: {found}: {error.details()}")
        return
    raise AssertionError(f"a call that must be refused with {expected} was served")


def example(queues, name):
    session = Session()

    created = write(queues.CreateQueue, queue_pb2.CreateQueueRequest(name=name), session)
    assert created.created
    print(f"created queue {created.queue.name}")

    orders = [
        queue_pb2.NewMessage(body=f"order {n}".encode(), headers={"n": str(n)}) for n in range(3)
    ]
    sent = write(queues.Send, queue_pb2.SendRequest(queue=name, messages=orders), session)
    assert len(sent.messages) == 3
    zones = sent.durability.zones_at_least
    print(f"sent {len(sent.messages)} messages; the answer says: in at least {zones} zone(s)")

    request = queue_pb2.ReceiveRequest(queue=name, max_messages=3)
    request.visibility_timeout.FromSeconds(60)
    request.wait.FromSeconds(5)
    received = write(queues.Receive, request, session).messages
    assert [message.body for message in received] == [b"order 0", b"order 1", b"order 2"]
    assert all(message.dequeue_count == 1 for message in received)
    print(f"received {[message.body.decode() for message in received]}, leased for 60 s")

    first, second, third = received
    update = queue_pb2.UpdateRequest(
        queue=name, id=first.id, pop_receipt=first.pop_receipt, body=b"order 0, half done"
    )
    update.visibility_timeout.FromSeconds(120)
    updated = write(queues.Update, update, session)
    assert updated.pop_receipt != first.pop_receipt
    print("updated one: a new body, a longer lease and a new pop receipt")

    # The old receipt no longer works: somebody else could hold the message by now. Under the same
    # session tag it would be a retry, and a retry is answered as the first time was.
    update.ClearField("session")
    refused(queues.Update, update, "RECEIPT_MISMATCH")

    items = [
        queue_pb2.DeleteItem(id=first.id, pop_receipt=updated.pop_receipt),
        queue_pb2.DeleteItem(id=second.id, pop_receipt=second.pop_receipt),
        queue_pb2.DeleteItem(id=third.id, pop_receipt=first.pop_receipt),
    ]
    deleted = write(queues.Delete, queue_pb2.DeleteRequest(queue=name, items=items), session)
    assert list(deleted.outcomes) == [
        queue_pb2.DELETE_OUTCOME_DELETED,
        queue_pb2.DELETE_OUTCOME_DELETED,
        queue_pb2.DELETE_OUTCOME_RECEIPT_MISMATCH,
    ]
    print("deleted two; the third had the wrong receipt and is still there")

    found = queues.GetQueue(queue_pb2.GetQueueRequest(name=name), timeout=DEADLINE_SECONDS)
    assert (found.queue.counts.total, found.queue.counts.leased) == (1, 1)
    print(f"counts: {found.queue.counts.total} in all, {found.queue.counts.leased} leased")

    missing = queue_pb2.SendRequest(queue="no-such-queue", messages=orders[:1])
    refused(queues.Send, missing, "QUEUE_NOT_FOUND")
    refused(queues.Send, queue_pb2.SendRequest(queue=name), "INVALID_ARGUMENT")

    write(queues.DeleteQueue, queue_pb2.DeleteQueueRequest(name=name), session)
    refused(queues.GetQueue, queue_pb2.GetQueueRequest(name=name), "QUEUE_NOT_FOUND")
    print("done")


def main():
    endpoint = os.environ.get("ZONEQ_ENDPOINT", "127.0.0.1:7401")
    endpoint = endpoint.split(",")[0].removeprefix("http://")
    with grpc.insecure_channel(endpoint) as channel:
        example(queue_pb2_grpc.QueueServiceStub(channel), f"example-{uuid.uuid4().hex[:8]}")


if __name__ == "__main__":
    sys.exit(main())
