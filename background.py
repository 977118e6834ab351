"""Work of one batch that goes on while the next one is computed: decoding, scores, pictures, rows."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch


class BackgroundWriter:
    """Runs jobs in one thread, in their order; at most one waits, so that memory stays bounded.

    On CUDA they have a stream of their own, which waits for what was computed before the job was handed over.
    """

    def __init__(self, device):
        self.on_cuda = torch.device(device).type == "cuda"
        self.device = device
        self.stream = torch.cuda.Stream(device) if self.on_cuda else None
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self.job = None

    def submit(self, job, *args):
        """Hand over a job when the one before is done.

        Raises:
            Whatever the job before raised.
        """
        self.wait()
        ready = None
        if self.on_cuda:
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self.device))
        self.job = self.pool.submit(self.run, ready, job, args)

    def run(self, ready, job, args):
        with torch.cuda.stream(self.stream) if self.on_cuda else nullcontext():
            if ready is not None:
                self.stream.wait_event(ready)
            job(*args)
            if self.on_cuda:  # tensors of the other stream may be freed only when nothing reads them any more
                self.stream.synchronize()

    def wait(self):
        """Until the last job is done.

        Raises:
            Whatever it raised.
        """
        job, self.job = self.job, None
        if job is not None:
            job.result()

    def close(self):
        """Finish what was begun and end the thread; a failure of it is not raised here."""
        self.pool.shutdown(wait=True)
