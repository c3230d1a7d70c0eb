"""The front door: HTTP/1.1 as strictly as the parser can, for clients that are slow, greedy or up to something."""

from gateway.front_door.cycle import CYCLE as CYCLE
from gateway.front_door.cycle import Cycle as Cycle
from gateway.front_door.door import DOOR as DOOR
from gateway.front_door.door import Door as Door
from gateway.front_door.protocol import Limits as Limits
from gateway.front_door.protocol import strict_protocol as strict_protocol
