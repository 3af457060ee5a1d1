"""Activations in an object store: shards as write-once objects, found by a log of what was written, without listing."""

from probes.activations.remote.claim_log import ClaimLog as ClaimLog
from probes.activations.remote.objects import Objects as Objects
from probes.activations.remote.objects import is_url as is_url
from probes.activations.remote.objects import open_objects as open_objects
from probes.activations.remote.remote_shards import RemoteShards as RemoteShards
