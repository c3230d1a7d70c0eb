"""The gateway's commands: `turntable serve`, `turntable usage`, `turntable costs`."""
