CFLAGS += -ffreestanding

firmware.elf: model.o weights.o run_board.o board.ld
	$(CC) $(ARCH) -nostdlib -Wl,--gc-sections -T board.ld model.o weights.o run_board.o -lgcc -o $@

emulate: firmware.elf
	$(EMULATOR) firmware.elf

run_board.o: run_board.c model.h
