"""Activations of texts: extract them once, keep them on disk by content, and read them by text."""

from probes.activations.certificate import Certificate as Certificate
from probes.activations.certificate import certified as certified
from probes.activations.extract import depth_of as depth_of
from probes.activations.extract import extract as extract
from probes.activations.extract import open_stores as open_stores
from probes.activations.extract import row_ids as row_ids
from probes.activations.fill import PassReport as PassReport
from probes.activations.fill import fill_stores as fill_stores
from probes.activations.remote import is_url as is_url
from probes.activations.settings import ExtractionSettings as ExtractionSettings
from probes.activations.store import ActivationStore as ActivationStore
from probes.activations.store import names_under as names_under
