"""HTTP server: strict HTTP/1.1 towards clients, listeners, middleware, TLS."""

from gateway.server.cycle import CYCLE as CYCLE
from gateway.server.cycle import ClientCycle as ClientCycle
from gateway.server.cycle import Cycle as Cycle
from gateway.server.cycle import cycle_of as cycle_of
from gateway.server.listeners import LISTENER as LISTENER
from gateway.server.listeners import Listener as Listener
from gateway.server.protocol import ConnectionLimits as ConnectionLimits
from gateway.server.protocol import strict_protocol as strict_protocol
