"""The front door: HTTP/1.1 as strictly as the parser can, for clients that are slow, greedy or up to something."""

from gateway.server.cycle import CYCLE as CYCLE
from gateway.server.cycle import Cycle as Cycle
from gateway.server.listeners import LISTENER as LISTENER
from gateway.server.listeners import Listener as Listener
from gateway.server.protocol import ConnectionLimits as ConnectionLimits
from gateway.server.protocol import strict_protocol as strict_protocol
