// Asking for the matrix unit, and setting its registers; see amx.h.

#include "autodiff/cpu/amx.h"

#if AD_AMX
#include <sys/syscall.h>
#include <unistd.h>

// Documentation/arch/x86/xstate.rst of Linux: ARCH_REQ_XCOMP_PERM, and the number of the feature.
static const long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;

bool ad_amx_ready(void) {
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

// What LDTILECFG reads: palette 1, and of each register the bytes of a row and the rows.
typedef struct tile_settings {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_settings;

void ad_amx_set_rest(ad_amx *unit, int rest) {
    tile_settings set = {.palette = 1};
    for (int i = 0; i < 8; i++) set.row_bytes[i] = 4 * AD_AMX_SIZE, set.rows[i] = AD_AMX_SIZE;
    set.row_bytes[6] = (uint16_t)(4 * rest);
    set.rows[7] = (uint8_t)rest;
    AD_AMX_STORED;
    _tile_loadconfig(&set);
    unit->rest = rest;
}

void ad_amx_begin(ad_amx *unit) { ad_amx_set_rest(unit, AD_AMX_SIZE / 2); }
void ad_amx_end(void) { _tile_release(); }
#else
bool ad_amx_ready(void) { return false; }
void ad_amx_begin(ad_amx *unit) { unit->rest = 0; }
void ad_amx_end(void) {}
#endif
