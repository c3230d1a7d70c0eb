"""A registry with three ready versions of one name, as the tests of releases have it."""

from tests.gateway.releases.conftest import registry as registry
from tests.gateway.releases.conftest import versions as versions
