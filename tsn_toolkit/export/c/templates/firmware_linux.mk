firmware.elf: model.o weights.o run.o
	$(CC) $(ARCH) -static model.o weights.o run.o -o $@

emulate: firmware.elf
	$(EMULATOR) ./firmware.elf < input.bin > output.bin

run.o: run.c model.h
